"""The fields of a trial's row are the one list that table, results, data frame, JSON and docs follow."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tune_platform.cli.common import trial_json
from tune_platform.engine.log import trial_row
from tune_platform.engine.trial import Trial
from tune_platform.resources import Resources
from tune_platform.results.checkpoints import Checkpoint
from tune_platform.results.tables import row_columns
from tune_platform.results.trials import TrialResult, moment, result_of
from tune_platform.store import schema
from tune_platform.store.records import TrialRow
from tune_platform.store.rows import to_trials, trial_values

ROOT = Path(__file__).parents[2]
NAMES = [field.name for field in fields(TrialRow)]
ROW = TrialRow(
    trial=3, status="FAILED", config={"a": {"b": 1}}, reason="r", origin="user", attempt=2, step=5,
    metrics={"loss": 0.5}, best=0.25, best_step=4, error="e", created=1.0, started=2.0, ended=4.0, worker="w",
)  # fmt: skip


def test_every_field_is_set_in_the_example() -> None:
    assert [name for name in NAMES if getattr(ROW, name) in (None, "", {}, 0)] == []


def test_a_field_is_a_column_and_comes_back() -> None:
    assert [column.name for column in schema.columns(schema.trials)] == NAMES
    assert to_trials([trial_values(1, ROW)[1:]], lambda table, row, what: pytest.fail(what)) == [ROW]


def test_a_field_comes_from_the_engines_trial() -> None:
    trial = Trial(7, {"x": 1}, Resources(), origin="start", reason="because", attempt=3, error="bad", created=5.0)
    row = trial_row(trial)
    assert (row.trial, row.status, row.config, row.step, row.metrics) == (7, "PENDING", {"x": 1}, 0, {})
    assert (row.origin, row.reason, row.attempt, row.error, row.created) == ("start", "because", 3, "bad", 5.0)


def test_a_field_is_in_results_tables_json_and_docs() -> None:
    kept = Checkpoint(3, 4, "uri")
    result = result_of(ROW, {"loss": 0.25}, [kept])
    assert isinstance(result, TrialResult)
    assert (result.number, result.duration, result.checkpoint) == (3, 2.0, kept)
    changed: dict[str, object] = {name: moment(getattr(ROW, name)) for name in ("created", "started", "ended")}
    changed["metrics"] = {"loss": 0.25}
    rest = {name: getattr(ROW, name) for name in NAMES if name not in changed}
    assert {name: getattr(result, name) for name in NAMES} == {**rest, **changed}
    assert result.last == ROW.metrics
    assert set(row_columns()) == {*NAMES, "duration", "checkpoint"} - {"config", "metrics"}
    keys = {*NAMES, "duration", "checkpoint", "metrics_at_best", "folder"}
    assert set(trial_json(result)) == keys
    (sentence,) = re.findall(r"- A \*\*trial\*\*: (.*?)\n- ", (ROOT / "docs/cli.md").read_text(), re.DOTALL)
    assert set(re.findall(r"`(\w+)`", sentence)) == keys
