"""A store of each format that a release has written, killed in the middle, goes on with this one."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

from tune_platform import load, resume
from tune_platform.store.sql import open_store

ASSETS = Path(__file__).parents[1] / "assets"


def test_format_2(tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "version_4" / "promotion", tmp_path / "promotion")
    before = {trial.number: trial for trial in load("promotion", storage=tmp_path).trials()}
    with open_store(tmp_path) as store, store.open("promotion", readonly=True) as experiment:
        assert (experiment.log_format, experiment.row().status) == (2, "crashed")
        written, snapshots = experiment.last_seq(), [seq for seq, _ in experiment.snapshots()]
        assert len(snapshots) == 2
        requested = sum(row.kind == "requested" for row, _ in experiment.read_log())
    with open_store(tmp_path) as store, store.open("promotion") as experiment:
        experiment.request("unpause", 4, {})  # one that a person held when the driver was killed

    results = resume("promotion", storage=tmp_path)
    assert results.status == "finished"
    trials = {trial.number: trial for trial in results.trials()}
    assert len(trials) == 40 + 1 + 2  # a person has added one, and asked for two more
    assert {trial.status for trial in trials.values()} <= {"COMPLETED", "STOPPED", "FAILED"}
    for number, trial in before.items():
        if trial.status in ("COMPLETED", "STOPPED", "FAILED"):
            assert trials[number] == trial
        assert trials[number].step >= trial.step
    with open_store(tmp_path) as store, store.open("promotion", readonly=True) as experiment:
        rows = [row for row, _ in experiment.read_log()]
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
        assert len(rows) > written
        assert sum(row.kind == "requested" for row in rows) == requested + 1
        steps = defaultdict(list)
        for report in experiment.reports():
            steps[report.trial].append(report.step)
    assert all(steps[number] == list(range(1, trial.step + 1)) for number, trial in trials.items())
