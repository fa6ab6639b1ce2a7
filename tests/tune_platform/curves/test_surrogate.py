"""What lies between the rows of a table: at the rows themselves, between them, behind ends, and better than nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tune_platform import extras
from tune_platform.curves.surrogate import Surrogate
from tune_platform.curves.table import CurveTable
from tune_platform.errors import MissingLibraryError, SpecError
from tune_platform.space import Space, choice, loguniform, uniform, when

SPACE = Space(
    {"lr": loguniform(1e-4, 1.0), "net": choice(["mlp", "cnn"]), "width": when(choice([8, 64]), {"net": "mlp"})}
)
CONFIGS = [
    {"lr": 0.001, "net": "mlp", "width": 8},
    {"lr": 0.1, "net": "mlp", "width": 64},
    {"lr": 0.1, "net": "cnn"},
]
LOSS = np.array([[3, 2, 1], [6, 5, np.nan], [9, 8, 7]], dtype=np.float32)
SECONDS = np.array([[1, 1, 1], [2, 2, np.nan], [4, 4, 4]], dtype=np.float32)


def table(**changes: Any) -> CurveTable:
    parts: dict[str, Any] = {"space": SPACE, "metric": "loss", "mode": "min", "configs": CONFIGS, "name": "small"}
    return CurveTable(**{**parts, "values": {"loss": LOSS}, "seconds": SECONDS, **changes})


def bowl(rows: int, seed: int = 0) -> CurveTable:
    """Curves of two numbers, of which one matters, with a little noise."""
    generator = np.random.default_rng(seed)
    x = generator.random((rows, 2))
    steps = np.arange(1, 6)
    values = ((x[:, :1] - 0.4) ** 2 + 1 / steps + 0.01 * generator.standard_normal((rows, 5))).astype(np.float32)
    return CurveTable(
        space=Space({"x": uniform(0, 1), "y": uniform(0, 1)}), metric="loss", mode="min",
        configs=[{"x": float(a), "y": float(b)} for a, b in x],
        values={"loss": values, "scaled": values * 1e6}, seconds=np.tile(1 + x[:, 1:], 5).astype(np.float32),
    )  # fmt: skip


def test_a_row_is_answered_with_itself_and_ends_where_it_ends() -> None:
    curve, seconds = table().lookup(between="surrogate")
    for config, losses, taken in zip(CONFIGS, LOSS, SECONDS, strict=True):
        for step in (1, 2):
            assert curve(config, step) == {"loss": pytest.approx(losses[step - 1])}
            assert seconds(config, step) == pytest.approx(taken[step - 1])
    assert curve(CONFIGS[1], 3) is None
    assert curve(CONFIGS[2], 3) == {"loss": pytest.approx(7)}


def test_between_two_rows_lies_a_mixture_of_them_and_no_value_beyond() -> None:
    curve, _ = table().lookup(between="surrogate")
    found = curve({"lr": 0.01, "net": "mlp", "width": 8}, 1)["loss"]
    assert 3 < found < 9
    assert found == curve({"lr": 0.01, "net": "mlp", "width": 8}, 1)["loss"]


def test_it_expects_unseen_configs_better_than_their_nearest_rows_say() -> None:
    """Only x matters, and a nearest row is near in both; a metric of millions does not drown the other."""
    known, unseen = bowl(150), bowl(60, seed=1)
    off = {}
    for between in ("nearest", "surrogate"):
        curve, _ = known.lookup(between=between)
        found = [[curve(config, step)["loss"] for step in range(1, 6)] for config in unseen.configs]
        off[between] = float(np.abs(np.array(found) - unseen.values["loss"]).mean())
    assert off["surrogate"] < 0.8 * off["nearest"]


def test_rows_without_any_value_are_left_out_and_a_table_of_these_has_none() -> None:
    empty = np.full((3, 3), np.nan, dtype=np.float32)
    some = LOSS.copy()
    some[0] = np.nan
    curves, _ = Surrogate(SPACE, CONFIGS, {"loss": some}, SECONDS)(CONFIGS[0])
    assert 6 <= curves["loss"][0] <= 9
    curve, _ = table(values={"loss": empty}).lookup(between="surrogate")
    assert curve(CONFIGS[0], 1) is None


def test_a_wrong_word_and_a_missing_library_get_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"between: got 'surogate' .did you mean 'surrogate'.*; allowed: nearest"):
        table().lookup(between="surogate")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match="samplers"):
        table().lookup(between="surrogate")
