"""Drivers that die at any moment, on clocks that are real: facts are what happened, decisions follow from the log.

What ran is begun again from its checkpoints. So the rows of a resumed run are others than those of one that was never
cut; but no report is lost or doubled, every rule of a scheduler holds on the log as it is, and with one place, where
the order of events is fixed, all trials are the same. `test_invariants` has the virtual clock, where all is the same,
byte for byte; `tests/tune_platform/test_kill.py` has Ray.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import MemoryLog, Scenario, plain
from tests.tune_platform.engine.test_invariants import (
    QUIET,
    check_end,
    check_promotion,
    check_stopping,
    scenarios,
)
from tune_platform import ASHA, FIFO, CheckpointPolicy, SearchSpec, resume, run, uniform
from tune_platform.backends.simulated import Faults
from tune_platform.engine.recovery import recover
from tune_platform.store.experiment import SqlExperiment
from tune_platform.store.sql import open_store


@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
@given(scenarios(max_trials=8), st.booleans(), st.data())
def test_cuts_of_a_real_clock(scenario: Scenario, stateful: bool, data: st.DataObject) -> None:
    """Up to three drivers, each cut after any transaction."""
    scenario.real, scenario.stateful = True, stateful
    scenario.limit = None  # a searcher that has nothing more is asked again by each driver
    scenario.settings = {**scenario.settings, "step_timeout": float("inf"), "time_budget": float("inf")}
    if scenario.faults is not None:
        scenario.faults = Faults(exception=0.1, worker_died=0.05, nan=0.02)
    driven = scenario.run()
    for _ in range(data.draw(st.integers(1, 3), label="drivers")):
        whole = driven.log
        seq = data.draw(st.sampled_from([0, *whole.commits]), label="cut")
        driven = scenario.build(whole.cut(seq))
        # Who had cancelled it does so again: a resume goes on with all that a person has not stopped for good.
        driven.log.plan = [*whole.plan, (10**9, "cancel", None, {})]
        recover(driven.runner)
        driven.drive()
        assert rows(driven.log)[:seq] == rows(whole)[:seq], "what is committed stays"
        check_end(driven)
    if scenario.settings.get("stop") or scenario.faults or len(scenario.plan) > 2:
        return
    if scenario.scheduler == "stopping":
        check_stopping(driven)
    elif scenario.scheduler in ("promotion", "epochs"):
        check_promotion(driven)


def rows(log: MemoryLog) -> list[Any]:
    return [tuple(row._replace(data=plain(dict(row.data)))) for row in log.rows]


ONE_PLACE = ("fifo", "stopping", "promotion", "epochs")


@pytest.mark.parametrize("scheduler", ONE_PLACE)
@pytest.mark.parametrize("lookahead", [0, None])
def test_with_one_place_a_cut_changes_no_trial(scheduler: str, lookahead: int | None) -> None:
    """After any row: the same configs, the same verdicts in the same order, the same ends."""
    scenario = Scenario(
        scheduler=scheduler,
        trials=7,
        nodes=({"cpu": 1.0},),
        lookahead=lookahead,
        checkpoint_every=2,
        batch=2,
        real=True,
        settings={"keep_last": 1},
    )
    whole = scenario.run()
    assert len(whole.log.rows) > 40
    for seq in range(len(whole.log.rows)):
        again = scenario.build(whole.log.cut(seq))
        recover(again.runner)
        again.drive()
        assert decided(again.log) == decided(whole.log), f"cut after row {seq}"
        assert again.searcher.told == whole.searcher.told
        assert configs(again.log) == configs(whole.log)


def decided(log: MemoryLog) -> list[Any]:
    verdicts = [(row.trial, plain(dict(row.data))) for row in log.rows if row.kind == "verdict"]
    ends = [(n, row.status, row.reason, row.step, row.best) for n, row in sorted(log.trials.items())]
    return [verdicts, ends]


def configs(log: MemoryLog) -> dict[int, Any]:
    return {number: plain(dict(row.config)) for number, row in log.trials.items()}


# ------------------------------------------------------------------------------- the store, and trials that train


class KilledError(BaseException):
    """Ends the driver as a kill would: nothing is written into the log after it."""


PARTS: dict[str, Callable[[], Any]] = {
    "fifo": FIFO,
    "stopping": lambda: ASHA(min=1, max=9, eta=3),
    "promotion": lambda: ASHA(resource="epoch", min=2, max=18, eta=3, type="promotion"),
}


def spec_of(scheduler: str, storage: Path) -> SearchSpec:
    return SearchSpec(
        name="cut",
        trainable="tests.assets.old_search:Curve",
        param_space={"x": uniform(0, 1)},
        metric="loss",
        mode="min",
        scheduler=PARTS[scheduler](),
        searcher={"name": "tpe", "n_startup_trials": 2},
        num_samples=6,
        checkpoint=CheckpointPolicy(every=2),
        seed=3,
        storage=str(storage),
        backend="inline",
    )


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the driver die right after its next `n`-th commit, before anything of it is carried out."""
    append = SqlExperiment.append
    left = 0

    def dies(self: SqlExperiment, *args: Any, **options: Any) -> None:
        nonlocal left
        append(self, *args, **options)
        left -= 1
        if left == 0:
            raise KilledError

    def kill_after(commits: int) -> None:
        nonlocal left
        left = commits

    monkeypatch.setattr(SqlExperiment, "append", dies)
    return kill_after


def read(storage: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """Trials, verdicts and reports, as they are on the disk."""
    with open_store(storage) as store, store.open("cut", readonly=True) as experiment:
        trials = [(t.trial, t.status, t.reason, dict(t.config), t.step, t.best) for t in experiment.trials()]
        log = list(experiment.read_log())
        assert [row.seq for row, _ in log] == list(range(1, len(log) + 1))
        verdicts = [(row.trial, dict(row.data)) for row, _ in log if row.kind == "verdict"]
        reports = [(report.trial, report.step, dict(report.metrics)) for report in experiment.reports()]
    return trials, verdicts, sorted(reports, key=lambda report: report[:2])


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", PARTS)
def test_a_search_that_trains_is_the_same_wherever_its_driver_dies(
    scheduler: str, tmp_path: Path, killed: Callable[[int], None]
) -> None:
    """After every commit, and each time again two commits after the resume, with the SQLite store and TPE."""
    run(spec_of(scheduler, tmp_path / "calm"))
    calm = read(tmp_path / "calm")
    commit = 0
    while True:
        commit += 1
        storage = tmp_path / str(commit)
        killed(commit)
        try:
            run(spec_of(scheduler, storage))
            break
        except KilledError:
            pass
        killed(3)
        with contextlib.suppress(KilledError):
            resume("cut", storage=storage)
        killed(0)
        assert resume("cut", storage=storage).status == "finished"
        assert read(storage) == calm, f"killed after commit {commit}"
        shutil.rmtree(storage)
    assert commit > 12
