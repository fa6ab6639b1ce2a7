"""Whatever training code reports, the search goes on: through the worker, the log, the controller, the store, a resume.

What is no number, or none that a float holds, ends its own trial at most, and is told.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tune_platform import Results, SearchSpec, report, resume, run

HUGE = (10**400, -(10**400), 10**5000)

numbers = st.one_of(
    st.floats(), st.integers(), st.booleans(), st.sampled_from([400, 5000]).map(lambda n: 10**n),
    st.integers(2**1000, 2**1100),
    st.decimals(allow_nan=True), st.fractions(), st.just(Decimal("sNaN")), st.just(Decimal("1e999")),
    st.just(Fraction(10**400, 3)),
)  # fmt: skip
arrays = st.sampled_from(
    [np.float32(1.5), np.float64("nan"), np.float16("inf"), np.longdouble("1e4000"), np.int64(-3), np.uint64(2**64 - 1),
     np.bool_(True), np.array(2.0), np.array([1.0]), np.zeros((2, 2)), np.datetime64("2020"), np.str_("a"),
     np.array(None), np.complex64(1)]
)  # fmt: skip
texts = st.text(st.characters()) | st.sampled_from(["\ud800", "\0", "\udfff\n", "ä\u2028"])
others = st.one_of(st.none(), st.binary(max_size=9), st.just(object()), st.complex_numbers(), st.just(...))
values = st.recursive(
    st.one_of(numbers, numbers, arrays, texts, others),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.integers(), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["loss", "step", "epoch", "accuracy", "training_iteration", "note", "done", "\ud800"])
reports = st.lists(st.dictionaries(names, values, max_size=4), min_size=1, max_size=4)
counter = itertools.count()


def search(storage: Path, told: Sequence[dict[str, Any]], **options: Any) -> tuple[SearchSpec, Results]:
    """A search whose first trial reports what it is `told`, and whose second is sound."""
    trials = itertools.count()

    def train(config: dict[str, Any]) -> None:
        strange = next(trials) == 0
        for epoch in range(1, 4):
            sound = {"loss": 1.0 / epoch, "size": 1.0, "epoch": epoch, "accuracy": 0.1}
            report({**sound, **told[epoch - 1]} if strange and epoch <= len(told) else sound)

    given = {"metric": "loss", "mode": "min", "num_samples": 2, **options}
    spec = SearchSpec(trainable=train, backend="inline", storage=str(storage), **given)
    return spec, run(spec, name="fuzz")


PARTS: tuple[dict[str, Any], ...] = (
    {"stop": {"accuracy": 0.9}, "searcher": "tpe"},
    {"scheduler": {"name": "asha", "resource": "epoch", "max": 3}},
    {"scheduler": {"name": "asha", "max": 3, "type": "promotion"}, "stop": {"note": 3}},
    {"metric": ["loss", "size"]},
)


def check(storage: Path, spec: SearchSpec, results: Results) -> None:
    assert results.status == "finished", results.row().reason
    assert {trial.status for trial in results} <= {"COMPLETED", "STOPPED", "FAILED"}
    assert any(trial.status in ("COMPLETED", "STOPPED") for trial in results)
    assert all(trial.best is None or math.isfinite(trial.best) for trial in results)
    found = results.dataframe().to_json(date_format="iso")
    again = resume("fuzz", storage=storage, spec=spec, extend={"trials": 1})
    assert again.status == "finished", again.row().reason
    assert len(again) == 3
    assert again.dataframe()[:2].to_json(date_format="iso") == found
    json.dumps([dict(trial.metrics) for trial in again]).encode("utf-8")
    again.dataframe().to_csv().encode("utf-8")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports, st.sampled_from(PARTS))
def test_no_reported_value_ends_the_driver(tmp_path: Path, told: list[dict[str, Any]], parts: dict[str, Any]) -> None:
    storage = tmp_path / str(next(counter))
    check(storage, *search(storage, told, **parts))


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports, st.sampled_from(PARTS))
def test_no_reported_value_ends_the_driver_at_length(
    tmp_path: Path, told: list[dict[str, Any]], parts: dict[str, Any]
) -> None:
    storage = tmp_path / str(next(counter))
    check(storage, *search(storage, told, **parts))


@pytest.mark.parametrize("huge", HUGE, ids=range(3))  # not all of them can be printed
@pytest.mark.parametrize(
    ("name", "parts", "status", "reason"),
    [
        ("loss", {}, "FAILED", "bad_metric: metric 'loss' is "),
        ("size", {"metric": ["loss", "size"]}, "FAILED", "bad_metric: metric 'size' is "),
        ("epoch", PARTS[1], "FAILED", "bad_report: 'epoch' is "),
        ("other", {}, "COMPLETED", "the training code ended"),
    ],
)
def test_what_is_no_finite_float_is_told(
    tmp_path: Path, huge: int, name: str, parts: dict[str, Any], status: str, reason: str
) -> None:
    spec, results = search(tmp_path, [{name: huge}], **parts)
    first = results[0]
    assert first.status == status
    assert first.reason.startswith(reason)
    assert "inf" in first.reason or name == "other"
    check(tmp_path, spec, results)


@pytest.mark.parametrize(
    ("value", "status"), [(10**400, "COMPLETED"), (-(10**400), "COMPLETED"), (math.nan, "COMPLETED")], ids=range(3)
)
def test_a_key_of_stop_may_be_anything(tmp_path: Path, value: Any, status: str) -> None:
    _, results = search(tmp_path, [{"accuracy": value}], stop={"accuracy": 0.9})
    assert results[0].status == status
    assert ("reached the stop condition" in results[0].reason) == (value == 10**400)


def test_tensors_of_torch_are_values_too(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    told = [{"loss": torch.tensor(0.5), "accuracy": torch.tensor(float("inf"))}, {"note": torch.zeros(2)}]
    _, results = search(tmp_path, told)
    assert results[0].reason.startswith("bad_report: metric 'note' is Tensor")
    assert results[0].metrics["loss"] == 0.5
