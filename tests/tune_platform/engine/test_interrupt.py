"""Ctrl-C: what runs saves after its present step, a person is told what is waited for, and a resume goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support import RealBackend, Run, Scenario
from tune_platform.backends.simulated import Faults
from tune_platform.engine.recovery import recover
from tune_platform.protocol.backend import Work
from tune_platform.protocol.commands import Save


def begun(scenario: Scenario, turns: int) -> tuple[Run, list[str]]:
    """A run after some turns, and what it says to a person."""
    said: list[str] = []
    run = scenario.build()
    run.runner._say = said.append
    run.runner.start()
    for _ in range(turns):
        run.runner.turn()
    return run, said


@pytest.mark.parametrize(("scheduler", "turns"), [("fifo", 20), ("stopping", 8), ("promotion", 20), ("pbt", 20)])
def test_interrupt_saves_what_runs_and_a_resume_goes_on(scheduler: str, turns: int) -> None:
    scenario = Scenario(scheduler=scheduler, trials=6, batch=1, settings={"keep_last": 1})
    run, _ = begun(scenario, turns)  # enough that something runs, and has reported
    run.runner.interrupt()
    finish = run.runner.run()
    assert (finish.status, finish.reason) == ("interrupted", "the driver was interrupted; resume goes on from here")
    state = run.controller.state
    running = [trial for trial in state.trials.values() if state.ledger.holds(trial.number)]
    assert running
    assert all(trial.checkpoint is not None and trial.checkpoint.step == trial.step for trial in running)

    again = scenario.build(run.log.cut())
    recover(again.runner)
    launched = len(again.controller.launches)
    assert again.drive().status == "finished"
    first = again.controller.launches[launched : launched + len(running)]
    assert {launch.trial: launch.start for launch in first} == {trial.number: trial.step for trial in running}
    for number, row in again.log.trials.items():
        assert sorted(step for n, step in again.log.reports if n == number) == list(range(1, row.step + 1))
    # And a third driver, which finds all of that in the log, comes to the same end.
    third = scenario.build(again.log.cut(len(again.log.rows) - 3))
    recover(third.runner)
    third.drive()
    assert third.log.text() == again.log.text()


def test_interrupt_before_the_start() -> None:
    run, said = begun(Scenario(), 0)
    run.runner.interrupt()
    assert run.runner.run().status == "interrupted"
    assert said == []  # there was nobody to wait for
    again = Scenario().build(run.log.cut())
    recover(again.runner)
    assert again.drive().status == "finished"


def test_interrupt_once_it_is_over() -> None:
    run, said = begun(Scenario(trials=1), 0)
    run.drive()
    run.runner.interrupt()
    assert run.runner.run().status == "finished"
    assert said == []


def test_running_trials_are_asked_to_save_and_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    run, said = begun(Scenario(trials=4, nodes=({"cpu": 3.0},), batch=1), 9)
    asked: list[Save] = []
    submit = run.backend.submit

    def spy(work: Sequence[Work]) -> None:
        asked.extend(item for item in work if isinstance(item, Save))
        submit(work)

    monkeypatch.setattr(run.backend, "submit", spy)
    running = list(run.controller.state.heard)
    assert len(running) == 3
    run.runner.interrupt()
    run.runner.run()
    assert sorted(asked, key=lambda save: save.trial) == [Save(trial=number, halt=True) for number in sorted(running)]
    assert said == [
        "waiting for trials 0, 1, 2 to end the present step and to save, for 60 s at most; a second Ctrl-C ends at once"
    ]


def test_many_are_named_in_short() -> None:
    run, said = begun(Scenario(trials=14, nodes=({"cpu": 14.0},), batch=1), 60)
    assert len(run.controller.state.heard) == 14
    run.runner.interrupt()
    run.runner.run()
    assert "waiting for trials 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 4 more to end" in said[0]


def test_one_that_is_being_started_is_not_waited_for() -> None:
    run, said = begun(Scenario(trials=2, nodes=({"cpu": 2.0},), setup_time=50.0), 3)
    assert run.controller.state.placed
    assert not run.controller.state.heard
    assert run.runner._wind_down().status == "interrupted"
    assert said == []


def test_what_could_not_be_saved_is_told_with_what_a_resume_goes_on_from() -> None:
    """Trial 0 has a checkpoint of step 3, trial 1 none; both hang."""
    for seed in range(300):
        faults = Faults(hang=0.2)
        scenario = Scenario(trials=2, nodes=({"cpu": 2.0},), batch=1, checkpoint_every=3, faults=faults, seed=seed)
        run, said = begun(scenario, 0)
        for _ in range(60):
            run.runner.turn()
        trials = run.controller.state.trials
        if {n: (t.step, t.checkpoint is not None) for n, t in trials.items()} == {0: (4, True), 1: (2, False)}:
            break
    else:
        raise AssertionError("no such seed")
    run.runner.interrupt()
    assert run.runner.run().status == "interrupted"
    assert said[1:] == [
        "trials 0, 1 could not be saved within 60 s; a resume goes on with trial 0 from step 3, trial 1 from step 0"
    ]


def test_grace_is_all_the_time_that_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("tune_platform.engine.runner.time.monotonic", lambda: now[0])
    run, said = begun(Scenario(trials=1, batch=1, real=True), 5)
    run.runner._grace = 7.0
    assert isinstance(run.backend, RealBackend)
    polled: list[float | None] = []

    def poll(timeout: float | None) -> Any:
        polled.append(timeout)
        now[0] += 1.0
        return []

    run.backend.poll = poll  # type: ignore[method-assign]
    run.runner.interrupt()
    assert run.runner.run().status == "interrupted"
    assert len([timeout for timeout in polled if timeout is not None]) == 8  # one of the turn itself
    assert said[0].startswith("waiting for trial 0 to end the present step and to save, for 7 s at most;")
    assert said[1].startswith("trial 0 could not be saved within 7 s; a resume goes on with trial 0 from step ")


def test_one_that_ends_meanwhile_is_waited_for_no_longer() -> None:
    scenario = Scenario(trials=1, choices={"length": [2]}, batch=1)
    run, said = begun(scenario, 4)
    assert run.controller.state.trials[0].step == 2
    run.backend.submit = lambda work: None  # type: ignore[method-assign]  # the word to save comes too late
    assert run.runner._wind_down().status == "interrupted"
    assert len(said) == 1  # nothing of one that could not be saved
    assert run.log.trials[0].status == "COMPLETED"
    again = scenario.build(run.log.cut())
    recover(again.runner)
    assert again.drive().status == "finished"
    assert again.log.trials[0].step == 2
