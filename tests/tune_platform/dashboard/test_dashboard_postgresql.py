"""The page of experiments in PostgreSQL: the same as of those in SQLite."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from plotly.utils import PlotlyJSONEncoder

from tests.tune_platform.dashboard.conftest import SPEC, trial_row, write
from tune_platform.dashboard import listing
from tune_platform.dashboard.actions import ask, asked
from tune_platform.dashboard.layout import TABS, experiment_page, news
from tune_platform.dashboard.source import Source
from tune_platform.store.records import LogRow
from tune_platform.store.sql import open_store

pytestmark = pytest.mark.slow


def test_a_live_experiment_in_postgresql(empty_postgresql: str, tmp_path: Path) -> None:
    with open_store(empty_postgresql) as store, store.create("small", SPEC, created=time.time()) as experiment:
        experiment.acquire()
        write(experiment, tmp_path / "small")
        source = Source(empty_postgresql)
        before = source.picture("small")
        for tab in TABS:
            assert "small" in json.dumps(experiment_page(before, {"tab": tab}), cls=PlotlyJSONEncoder)
        assert "of 10" in json.dumps(listing.rows(source, "small"), cls=PlotlyJSONEncoder)
        row = LogRow(experiment.last_seq() + 1, 200.0, "moved", 4, {"status": "STOPPED", "reason": "rung 1"})
        experiment.append([row], (), [trial_row(4, "STOPPED", reason="rung 1")])
        after = news(source.picture("small"), before.view.revision)
        assert after is not None
        assert after["columns"]["state"] == ["stopped"], "what has not changed is not sent again"
        ask(empty_postgresql, "small", "pause", None)
        assert [(each["action"], each["trial"]) for each in asked(empty_postgresql, "small")] == [("pause", None)]
