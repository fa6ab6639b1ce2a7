"""The loop: the order of effects, interrupting and resuming, persons, and the searcher's part."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support import MemoryLog, Scenario
from tune_platform.backends.simulated import Faults, SimulatedBackend
from tune_platform.engine.runner import Runner
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.protocol.backend import Work
from tune_platform.protocol.commands import Ask, Command, Launch, Tell
from tune_platform.protocol.events import Event, Reported
from tune_platform.store.records import LogRow


class Broken(MemoryLog):
    """A store that fails after some transactions."""

    left = 3

    def append(self, log: Sequence[LogRow], *args: Any, **options: Any) -> None:
        if self.left == 0:
            raise OSError("disk full")
        self.left -= 1
        super().append(log, *args, **options)


def test_nothing_is_carried_out_that_is_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Scenario(trials=4).build(Broken())
    done: list[Work] = []
    asked: list[Ask | Tell] = []
    submit_work, submit_ask = run.backend.submit, run.runner._feed.submit

    def spy_work(work: Sequence[Work]) -> None:
        done.extend(work)
        submit_work(work)

    def spy_ask(command: Ask | Tell) -> None:
        asked.append(command)
        submit_ask(command)

    monkeypatch.setattr(run.backend, "submit", spy_work)
    monkeypatch.setattr(run.runner._feed, "submit", spy_ask)
    run.runner.start()
    for _ in range(3):
        run.runner.turn()
    rows, work, asks = len(run.log.rows), list(done), list(asked)
    with pytest.raises(OSError, match="disk full"):
        run.drive()
    assert (len(run.log.rows), done, asked) == (rows, work, asks)


@pytest.mark.parametrize("scheduler", ["fifo", "stopping", "promotion", "pbt"])
def test_interrupt_saves_what_runs_and_a_resume_goes_on(scheduler: str) -> None:
    scenario = Scenario(scheduler=scheduler, trials=6, batch=1, settings={"keep_last": 1})
    run = scenario.build()
    run.runner.start()
    for _ in range(20):  # enough that something of every scheduler's runs, and has reported
        run.runner.turn()
    run.runner.interrupt()
    finish = run.runner.run()
    assert finish.status == "interrupted"
    running = [t for t in run.controller.trials.values() if run.controller.ledger.holds(t.number)]
    assert running
    assert all(trial.checkpoint is not None and trial.checkpoint.step == trial.step for trial in running)

    again = scenario.build(run.log.cut(len(run.log.rows)))
    again.runner.recover()
    launched = len(again.controller.launches)
    assert again.drive().status == "finished"
    first = again.controller.launches[launched : launched + len(running)]
    assert {launch.trial: launch.start for launch in first} == {trial.number: trial.step for trial in running}
    for number, row in again.log.trials.items():
        assert sorted(step for n, step in again.log.reports if n == number) == list(range(1, row.step + 1))
    # And a third driver, which finds all of that in the log, comes to the same end.
    third = scenario.build(again.log.cut(len(again.log.rows) - 3))
    third.runner.recover()
    third.drive()
    assert third.log.text() == again.log.text()


def test_interrupt_before_the_start() -> None:
    run = Scenario().build()
    run.runner.start()
    run.runner.interrupt()
    assert run.runner.run().status == "interrupted"
    again = Scenario().build(run.log.cut(len(run.log.rows)))
    again.runner.recover()
    assert again.drive().status == "finished"


def test_interrupt_does_not_wait_for_what_hangs() -> None:
    run = Scenario(trials=2, faults=Faults(hang=1.0)).build()
    run.runner.start()
    for _ in range(3):
        run.runner.turn()
    run.runner.interrupt()
    assert run.runner.run().status == "interrupted"


def test_requests_are_carried_out_exactly_once() -> None:
    scenario = Scenario(
        trials=3, batch=1, plan=[(6, "enqueue", None, {"config": {"x": 0.5}}), (9, "enqueue", None, {"config": {}})]
    )
    run = scenario.run()
    added = [row for row in run.log.trials.values() if row.origin == "user"]
    assert len(run.log.trials) == 5
    assert len(added) == 2
    assert added[0].config == {"x": 0.5}
    for seq in range(len(run.log.rows)):
        again = scenario.build(run.log.cut(seq))
        again.runner.recover()
        again.drive()
        assert [row.data["request"] for row in again.log.rows if row.kind == "requested"] == [1, 2]


def test_a_request_that_cannot_be_met_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    run = Scenario(trials=2, plan=[(3, "enqueue", None, {"config": {"y": 1}})]).build()

    def refuse(config: Any, number: int) -> Any:
        raise SpecError("there is no parameter 'y'")

    run.runner._complete = refuse
    run.runner.start()
    assert run.drive().status == "finished"
    assert "request 1 to add a trial was refused: there is no parameter 'y'" in caplog.text
    assert len(run.log.trials) == 2


def test_extending_a_finished_experiment() -> None:
    scenario = Scenario(trials=2)
    first = scenario.run()
    log = first.log.cut(len(first.log.rows))
    log.plan = [(1, "extend", None, {"trials": 3})]
    again = scenario.build(log)
    again.runner.recover()
    assert again.drive().status == "finished"
    assert len(log.trials) == 5


def test_retrying_what_failed() -> None:
    scenario = Scenario(trials=3, faults=Faults(exception=0.15), seed=4)
    first = scenario.run()
    failed = [row.trial for row in first.log.trials.values() if row.status == "FAILED"]
    assert failed
    again = scenario.build(first.log.cut(len(first.log.rows)))
    again.runner.recover(retry_failed=True)
    assert all(n in again.searcher.known and n not in again.searcher.told for n in failed)
    again.drive()
    assert all(again.log.trials[n].attempt > 1 for n in failed)
    assert set(again.searcher.told) == {0, 1, 2}
    third = scenario.build(again.log.cut(len(again.log.rows) - 1))
    third.runner.recover()
    third.drive()
    assert third.log.text() == again.log.text()


def test_a_scheduler_that_has_changed_is_noticed() -> None:
    scenario = Scenario(scheduler="stopping")
    run = scenario.run()
    scenario.mode = "max"
    again = scenario.build(run.log.cut(len(run.log.rows)))
    with pytest.raises(ExperimentError, match="replaying the log gives"):
        again.runner.recover()


def test_a_searcher_that_raises() -> None:
    run = Scenario(trials=8, raises_at=3).run()
    finish = run.controller.finished
    assert finish is not None
    assert finish.status == "failed"
    assert "RuntimeError: no idea left" in finish.reason
    assert all(row.status in ("COMPLETED", "PENDING") for row in run.log.trials.values())
    assert any(row.status == "COMPLETED" for row in run.log.trials.values())


def test_an_exhausted_searcher() -> None:
    run = Scenario(trials=8, limit=3).run()
    assert run.controller.finished is not None
    assert run.controller.finished.reason == "the searcher has nothing more to try"
    assert sorted(run.log.trials) == [0, 1, 2]


def test_start_points_come_first() -> None:
    run = Scenario(trials=4, start_points=({"x": 0.1}, {"x": 0.2})).run()
    rows = run.log.trials
    assert [rows[n].origin for n in range(4)] == ["start", "start", "searcher", "searcher"]
    assert [rows[n].config["x"] for n in range(2)] == [0.1, 0.2]


def test_listeners_see_what_is_committed() -> None:
    run = Scenario(trials=3).build()
    seen: list[str] = []

    def listener(controller: Any, events: Sequence[Event], commands: Sequence[Command]) -> None:
        assert len(run.log.rows) == run.runner._seq
        for event in events:
            seen.append(event.kind)
            if isinstance(event, Reported) and event.done:
                assert event.trial in controller.trials, "forgotten before anyone could look"

    run.runner._listeners = [listener]
    run.runner.start()
    run.drive()
    assert seen == [row.kind for row in run.log.rows if row.kind != "verdict"]


def test_a_hang_is_noticed_although_others_report() -> None:
    """On a real clock a tick is due whatever else has happened in the turn."""
    scenario = Scenario(trials=2, settings={"step_timeout": 5.0})
    run = scenario.build()
    run.runner.start()
    run.runner.turn()
    run.runner.turn()

    class Busy(SimulatedBackend):
        virtual = False

    run.backend.__class__ = Busy
    run.backend._now = 100.0
    assert [event.kind for event in run.runner._drain()][-1] == "ticked"


def test_a_hang_is_a_fact_of_its_trial() -> None:
    run = Scenario(trials=3, seed=1, faults=Faults(hang=0.3), settings={"step_timeout": 5.0}).run()
    timeouts = [(row.trial, row.data["cause"]) for row in run.log.rows if row.kind == "failed"]
    assert timeouts
    assert {cause for _, cause in timeouts} == {"timeout"}
    assert not any(row.kind == "ticked" for row in run.log.rows)


def test_resume_on_a_real_clock_tells_first_that_it_resumed() -> None:
    class Real(SimulatedBackend):
        virtual = False

    run = Scenario(trials=3, batch=1).build()
    run.runner.start()
    for _ in range(8):
        run.runner.turn()
    again = Scenario(trials=3, batch=1).build(run.log.cut(len(run.log.rows)))
    again.backend.__class__ = Real
    again.runner.recover()
    assert [event.kind for event in again.runner._early] == ["resumed", "capacity"]
    before = len(again.controller.launches)
    again.runner.turn()
    launches: list[Launch] = again.controller.launches[before:]
    assert len({launch.trial for launch in launches}) == len(launches) == 2
    assert all(again.log.trials[launch.trial].status == "RUNNING" for launch in launches)


def test_memory_does_not_grow_with_ended_trials() -> None:
    run = Scenario(trials=400, faults=Faults(exception=0.02), checkpoint_every=3).build()
    run.runner.start()
    most = 0
    for _ in range(20_000):
        if run.controller.finished is not None:
            break
        run.runner.turn()
        most = max(most, len(run.controller.trials))
    assert most <= 8
    assert not run.controller._shelf._holders


def test_a_budget_of_time_ends_exactly() -> None:
    run = Scenario(trials=50, settings={"time_budget": 12.3}).run()
    assert run.log.rows[-1].time == pytest.approx(12.3)
    assert sum(row.kind == "ticked" for row in run.log.rows) == 1


def test_settings_are_plain() -> None:
    settings = Scenario().make_settings()
    assert dataclasses.replace(settings, num_samples=math.inf).num_samples == math.inf
    assert isinstance(Scenario().build().runner, Runner)
