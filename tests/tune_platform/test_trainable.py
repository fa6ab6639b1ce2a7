from __future__ import annotations

import enum
import math
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tune_platform.trainable import (
    FunctionTrainable,
    Trainable,
    TrialContext,
    get_checkpoint,
    get_context,
    make_trainable,
    plain_metrics,
    report,
)


def lists(depth: int) -> Any:
    return [lists(depth - 1)] if depth else 1


def dicts(depth: int) -> Any:
    return {"a": dicts(depth - 1)} if depth else 1


def test_a_function_runs_to_its_next_report_and_no_further() -> None:
    seen: list[int] = []

    def train(config: dict[str, Any]) -> float:
        for epoch in range(2):
            seen.append(epoch)
            report({"epoch": epoch, "trial": get_context().trial})
        return 0.5

    trainable = make_trainable(train, TrialContext(trial=3))
    trainable.setup({})
    assert trainable.step() == {"epoch": 0, "trial": 3}
    assert seen == [0]
    assert trainable.step() == {"epoch": 1, "trial": 3}
    assert trainable.step() == {"_metric": 0.5, "done": True}
    for _ in range(100):  # also while its thread is just ending
        assert trainable.step() is None
    trainable.cleanup()


def test_cleanup_unwinds_through_finally() -> None:
    ended = []

    def train(config: dict[str, Any]) -> None:
        try:
            while True:
                report({"loss": 1.0})
        finally:
            ended.append(True)

    trainable = make_trainable(train)
    trainable.setup({})
    trainable.step()
    trainable.cleanup()
    assert ended == [True]
    with pytest.raises(RuntimeError, match="only inside a train function"):
        report({"loss": 1.0})


def test_a_reported_checkpoint_is_copied_at_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()

    def train(config: dict[str, Any]) -> None:
        assert get_checkpoint() == tmp_path
        (source / "state").write_text("first")
        report({"loss": 1.0}, checkpoint=source)
        (source / "state").write_text("second")
        report({"loss": 1.0})

    trainable = make_trainable(train)
    assert isinstance(trainable, FunctionTrainable)
    trainable.setup({})
    trainable.load_checkpoint(tmp_path)
    trainable.step()
    (source / "state").write_text("changed")
    assert trainable.save_checkpoint(tmp_path / "saved")
    assert (tmp_path / "saved" / "state").read_text() == "first"
    assert trainable.save_checkpoint(tmp_path / "saved") is False
    trainable.step()
    assert trainable.save_checkpoint(tmp_path / "saved") is False
    trainable.cleanup()


def test_a_reported_checkpoint_is_given_to_whoever_copies_it(tmp_path: Path) -> None:
    trainable = make_trainable(lambda config: report({"loss": 1.0}, checkpoint=str(tmp_path)))
    assert isinstance(trainable, FunctionTrainable)
    given: list[Path] = []
    trainable.copy = given.append
    trainable.setup({})
    trainable.step()
    assert given == [tmp_path]
    assert trainable.save_checkpoint(tmp_path) is False
    trainable.cleanup()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: report(3), "takes a dict"),  # type: ignore[arg-type]
        (lambda: report({}, checkpoint="/not/there"), "existing directory"),
    ],
)
def test_a_wrong_report_raises_in_the_function(call: Any, message: str) -> None:
    trainable = make_trainable(lambda config: call())
    trainable.setup({})
    with pytest.raises((TypeError, ValueError), match=message):
        trainable.step()


def test_metrics_become_plain() -> None:
    class Kind(enum.IntEnum):
        ONE = 1

    metrics = {
        "a": np.float32(1.5),
        "b": np.array(2),
        "c": {"d": {"e": True}},
        "f": [np.int64(1), 2.0],
        "g": Fraction(1, 4),
        "h": Decimal("0.5"),
        "i": np.str_("x"),
        "j": Kind.ONE,
        "k": None,
        1: 1,
    }
    plain = plain_metrics(metrics)  # type: ignore[arg-type]
    assert plain == {
        "a": 1.5, "b": 2, "c/d/e": True, "f": [1, 2.0], "g": 0.25, "h": 0.5, "i": "x", "j": 1, "k": None, "1": 1
    }  # fmt: skip
    assert {type(value) for value in plain.values()} == {float, int, bool, list, str, type(None)}


@pytest.mark.parametrize("value", [object(), 1j, np.zeros(2), b"x", [{"a": 1}], {"a": np.datetime64("2020")}])
def test_what_cannot_be_stored_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match="metric 'loss"):
        plain_metrics({"loss": value})


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (10**400, math.inf), (-(10**5000), -math.inf), (2**1022, 2**1022), (Fraction(10**400), math.inf),
        (Decimal("-1e999"), -math.inf), (Decimal("sNaN"), math.nan), ("\ud800x", "\\ud800x"), ("\u00e4", "\u00e4"),
        ([10**400], [math.inf]), (np.longdouble("1e4000"), math.inf), (lists(2), [[1]]),
    ],
    ids=range(11),  # not all of them can be printed
)  # fmt: skip
def test_what_no_float_or_text_holds_is_written_as_near_as_can_be(value: Any, plain: Any) -> None:
    (found,) = plain_metrics({"x": value}).values()
    assert repr(found) == repr(plain)


def test_names_are_texts_that_can_be_written() -> None:
    assert plain_metrics({"\ud800": {3: 1}}) == {"\\ud800/3": 1}


class Broken:
    """Raises wherever it is looked at."""

    shape = ()

    def item(self) -> Any:
        raise RuntimeError("no")

    def __str__(self) -> str:
        raise RuntimeError("no")


class Mute:
    __str__ = Broken.__str__


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Broken(), "'x' is Broken, which cannot be read: RuntimeError"), (Mute(), "'x' is Mute '.it cannot be printed"),
        (lists(30), "nested more than 20 deep"), (dicts(30), "nested more than 20 deep"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_mistake_with_a_name(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        plain_metrics({"x": value})


def test_only_trainables_are_made() -> None:
    assert isinstance(make_trainable(Trainable), Trainable)
    for thing in (3, int, Trainable()):
        with pytest.raises(TypeError, match="a trainable is"):
            make_trainable(thing)  # type: ignore[arg-type]


def test_a_missing_step_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"Trainable.step\(\) is missing"):
        Trainable().step()


def test_the_waist_loads_nothing_of_ours() -> None:
    code = "import sys, tune_platform.trainable; print([m for m in sys.modules if m.startswith('tune_platform')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "backends" not in done.stdout
    assert "store" not in done.stdout
