"""A long experiment in PostgreSQL: the steps that are looked up, and whole curves."""

from __future__ import annotations

import pytest

from tune_platform.plots import View
from tune_platform.store.records import LogRow, ReportRow, TrialRow
from tune_platform.store.sql import open_store

pytestmark = pytest.mark.slow


def test_steps_are_left_out_but_no_end(empty_postgresql: str) -> None:
    spec = {"objective": {"metric": "loss", "mode": "min"}, "space": {}}
    rows = [
        TrialRow(trial=n, status="COMPLETED", config={}, step=25, metrics={"loss": 25.0}, best=1.0, best_step=1)
        for n in range(3)
    ]
    told = [ReportRow(n, step, 1, float(step), {"loss": float(step)}) for n in range(3) for step in range(1, 26)]
    with open_store(empty_postgresql) as store, store.create("long", spec, created=1.0) as experiment:
        experiment.append([LogRow(1, 1.0, "launched", 0, {"attempt": 1})], told, rows)
        view = View.of("long", storage=empty_postgresql, limit=8)
        assert view.curve(1)[0].tolist() == [1, 10, 20, 25]
        assert view.whole([1]).curve(1)[1].tolist() == [float(step) for step in range(1, 26)]
