"""The loop: the order of effects, persons, the searcher's part, time."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.support import MemoryLog, RealBackend, Run, Scenario
from tune_platform.backends.simulated import Faults
from tune_platform.engine.recovery import recover
from tune_platform.engine.runner import Runner
from tune_platform.errors import SpecError
from tune_platform.protocol.backend import Work
from tune_platform.protocol.commands import Launch
from tune_platform.protocol.effects import EFFECTS
from tune_platform.protocol.events import Event, Saved
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.store.records import LogRow


class FullError(OSError):
    """The disk is full."""


class Broken(MemoryLog):
    """A store that fails at one of its transactions."""

    left = 0

    def append(self, log: Sequence[LogRow], *args: Any, **options: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise FullError
        super().append(log, *args, **options)


class Spies:
    """Note all that leaves the loop: the backend's work, the searcher's calls, what is dropped, what listeners hear."""

    def __init__(self, run: Run) -> None:
        self.left: list[Any] = []
        backend, feed = run.backend, run.runner.feed
        submit, ask, observe = backend.submit, feed.submit, feed.observe

        def work(items: Sequence[Work]) -> None:
            self.left.extend(items)
            submit(items)

        def call(command: Any) -> None:
            self.left.append(command)
            ask(command)

        def look(number: int, config: Mapping[str, Any]) -> None:
            self.left.append(number)
            observe(number, config)

        def listen(run: Any, events: Any, effects: Any) -> None:
            self.left.append((events, effects))

        def drop(refs: Sequence[CheckpointRef]) -> None:
            self.left.extend(refs)

        backend.submit, feed.submit, feed.observe = work, call, look  # type: ignore[method-assign, assignment]
        run.runner._drop, run.runner._listeners = drop, [listen]


BUSY = Scenario(
    scheduler="pbt",  # clones, so that checkpoints are dropped
    trials=6,
    nodes=({"cpu": 6.0},),
    batch=1,
    faults=Faults(exception=0.03),
    plan=[(14, "enqueue", None, {"config": {"x": 0.5}}), (22, "pause", 1, {}), (44, "unpause", 1, {})],
    settings={"retries": {"exception": 2}},
)


def test_the_busy_run_has_all_kinds_of_effects() -> None:
    run = BUSY.build()
    spies = Spies(run)
    run.runner.start()
    run.drive()
    kinds = {type(item).__name__ for item in spies.left}
    assert kinds == {"Launch", "Advance", "Save", "Release", "Ask", "Tell", "int", "CheckpointRef", "tuple"}


def test_nothing_is_carried_out_that_is_not_committed() -> None:
    """Whichever transaction fails: nothing of its turn reaches the backend, the searcher, the janitor or a listener."""
    commits = len(BUSY.run().log.commits)
    assert commits > 50
    for commit in range(commits):
        check_a_failing_commit(commit)


def check_a_failing_commit(commit: int) -> None:
    run = BUSY.build(Broken(BUSY.plan))
    assert isinstance(run.log, Broken)
    run.log.left = commit
    spies = Spies(run)
    run.runner.start()
    for _ in range(5000):
        rows, left = len(run.log.rows), list(spies.left)
        try:
            run.runner.turn()
        except FullError:
            break
    else:
        raise AssertionError("no transaction has failed")
    assert len(run.log.commits) == commit
    assert (len(run.log.rows), spies.left) == (rows, left)
    assert len([item for item in left if isinstance(item, tuple)]) == commit


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
        recover(again.runner)
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
    recover(again.runner)
    assert again.drive().status == "finished"
    assert len(log.trials) == 5


@pytest.mark.parametrize("real", [True, False])
def test_a_trial_that_a_person_adds_to_a_finished_experiment(real: bool) -> None:
    scenario = Scenario(trials=2, real=real)
    log = scenario.run().log.cut()
    log.plan = [(1, "enqueue", None, {"config": {"x": 0.5}})]
    again = scenario.build(log)
    recover(again.runner)
    assert again.drive().status == "finished"
    assert {number: row.status for number, row in log.trials.items()} == dict.fromkeys(range(3), "COMPLETED")


def test_what_a_person_asks_for_while_no_driver_runs_comes_before_any_launch() -> None:
    scenario = Scenario(trials=6, real=True)
    log = scenario.run().log
    log = log.cut(log.commits[4])
    launches = sum(row.kind == "launched" for row in log.rows)
    assert any(row.status in ("STARTING", "RUNNING") for row in log.trials.values())
    log.plan = [(1, "cancel", None, {})]
    again = scenario.build(log)
    recover(again.runner)
    assert again.drive().status == "stopped"
    assert sum(row.kind == "launched" for row in log.rows) == launches


def test_a_searcher_that_raises() -> None:
    run = Scenario(trials=8, raises_at=3).run()
    finish = run.controller.finished
    assert finish is not None
    assert finish.status == "failed"
    assert "RuntimeError: no idea left" in finish.reason
    assert {row.status for row in run.log.trials.values()} == {"COMPLETED"}


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


def test_a_suggestion_is_drawn_after_all_is_told_that_was_known() -> None:
    """With one place, and a searcher that learns: ask, tell, ask, tell ... The memo has how many it was told."""
    run = Scenario(trials=5, nodes=({"cpu": 1.0},)).run()
    assert run.searcher.calls == [(what, n) for n in range(5) for what in ("ask", "tell")]
    memos = [row.data["memo"]["told"] for row in run.log.rows if row.kind == "suggested"]
    assert memos == [0, 1, 2, 3, 4]


def test_a_searcher_that_does_not_learn_is_asked_ahead() -> None:
    run = Scenario(trials=5, nodes=({"cpu": 1.0},), lookahead=None).run()
    assert run.searcher.calls[:4] == [("ask", 0), ("ask", 1), ("tell", 0), ("ask", 2)]


# ------------------------------------------------------------------------------- time


def backend_of(run: Run) -> RealBackend:
    assert isinstance(run.backend, RealBackend)
    return run.backend


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of the loop, to be set by hand."""
    now = [1000.0]
    monkeypatch.setattr("tune_platform.engine.runner.time.monotonic", lambda: now[0])
    return now


def test_a_hang_is_noticed_although_others_report(clock: list[float]) -> None:
    """On a real clock a tick is due whatever else has happened in the turn."""
    run = Scenario(trials=2, settings={"step_timeout": 5.0}, batch=1, real=True).build()
    run.runner.start()
    for _ in range(3):
        run.runner.turn()
    assert run.controller.state.heard
    clock[0] += 4.9
    assert [event.kind for event in run.runner._drain()] == ["reported"]
    clock[0] += 0.2
    assert [event.kind for event in run.runner._drain()] == ["ticked", "reported"]


def test_a_clock_set_forward_by_a_day_ends_nothing(clock: list[float]) -> None:
    run = Scenario(trials=2, settings={"step_timeout": 5.0, "time_budget": 60.0}, real=True).build()
    run.runner.start()
    for _ in range(3):
        run.runner.turn()
        clock[0] += 0.1
    poll = run.backend.poll
    late = lambda timeout: [dataclasses.replace(event, time=event.time + 86_400.0) for event in poll(timeout)]  # noqa: E731
    run.backend.poll = late  # type: ignore[method-assign]
    assert run.drive().reason == "all 2 trials are done"
    assert {row.kind for row in run.log.rows} & {"failed", "ticked"} == set()
    assert max(row.elapsed for row in run.log.rows) < 1.0
    assert max(row.time for row in run.log.rows) > 86_400.0


def test_the_budget_is_of_searching_over_all_drivers(clock: list[float]) -> None:
    scenario = Scenario(trials=2, settings={"time_budget": 60.0}, real=True)
    run = scenario.build()
    run.runner.start()
    for _ in range(3):
        run.runner.turn()
        clock[0] += 5.0
    assert run.log.rows[-1].elapsed == 10.0
    clock[0] += 1e6  # nobody drives
    again = scenario.build(run.log.cut(len(run.log.rows)))
    backend_of(again).silent = True
    recover(again.runner)
    clock[0] += 49.0
    again.runner.turn()
    assert again.controller.state.elapsed == 59.0
    assert again.controller.finished is None
    clock[0] += 3.0  # it had been away, and looks first
    again.runner.turn()
    assert again.drive().reason == "the time budget of 60 s is used up"


@pytest.mark.parametrize("reported", [True, False])
def test_a_loop_that_was_away_looks_before_it_calls_anybody_overdue(clock: list[float], reported: bool) -> None:
    """A store that did not answer for an hour: reports have come meanwhile, and nobody had looked at them."""
    run = Scenario(trials=1, settings={"step_timeout": 30.0}, batch=1, real=True).build()
    run.runner.start()
    for _ in range(3):
        run.runner.turn()
    heard = run.controller.state.heard[0]
    backend_of(run).silent = True
    clock[0] += 3600.0
    run.runner.turn()  # it has looked once, and reports may still be on their way
    clock[0] += 1.0
    backend_of(run).silent = not reported
    run.runner.turn()
    assert not any(row.kind == "failed" for row in run.log.rows)
    assert (run.controller.state.heard[0] > heard) is reported
    clock[0] += 1.5
    run.runner.turn()
    assert [row.data["cause"] for row in run.log.rows if row.kind == "failed"] == ([] if reported else ["timeout"])


def test_time_stands_still_while_the_driver_is_suspended(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a driver that waits for its workers nearly always, as they take long: so that is where it was stopped."""
    run = Scenario(trials=1, settings={"step_timeout": 30.0, "time_budget": 60.0}, batch=1, real=True).build()
    run.backend.parallel = True
    run.runner.start()
    for _ in range(3):
        run.runner.turn()
    before = run.runner.elapsed()

    def suspended(timeout: float | None) -> list[Event]:
        clock[0] += 3600.0
        return []

    with monkeypatch.context() as patch:
        patch.setattr(run.backend, "poll", suspended)
        run.runner.turn()
    assert run.runner.elapsed() - before < 1.0
    backend_of(run).silent = True
    for seconds, failed in ((28.0, False), (5.0, True)):
        clock[0] += seconds / 2  # what was not heard of before is missed as ever
        run.runner.turn()
        clock[0] += seconds / 2
        run.runner.turn()
        assert any(row.kind == "failed" for row in run.log.rows) is failed


def test_the_checkpoint_of_the_last_to_end_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(trials=1, real=True)
    run = scenario.build()
    ref = CheckpointRef(0, 9, "memory://0/9")

    def poll(timeout: float | None) -> list[Event]:
        if run.controller.finished is None:
            return RealBackend.poll(backend_of(run), timeout)
        run.backend.writing = False
        return [Saved(time=run.backend.now(), trial=0, attempt=1, checkpoint=ref)]

    run.backend.writing = True
    monkeypatch.setattr(run.backend, "poll", poll)
    run.runner.start()
    assert run.runner.run().status == "finished"
    assert "memory://0/9" in run.log.checkpoints
    again = scenario.build(run.log.cut())
    recover(again.runner)
    assert again.controller.finished is not None


def test_checkpoints_of_the_last_to_end_are_waited_for_as_long_as_grace_says(clock: list[float]) -> None:
    run = Scenario(trials=1, real=True).build()
    said: list[str] = []
    run.runner._grace, run.runner._say = 7.0, said.append
    run.runner.start()
    run.drive()
    run.backend.writing = True

    def poll(timeout: float | None) -> list[Event]:
        clock[0] += 1.0
        return []

    run.backend.poll = poll  # type: ignore[method-assign]
    assert run.runner.run().status == "finished"
    assert said == ["checkpoints of the last trials were not written within 7 s, and are lost"]


def test_a_hang_is_a_fact_of_its_trial() -> None:
    run = Scenario(trials=3, seed=1, faults=Faults(hang=0.3), settings={"step_timeout": 5.0}).run()
    timeouts = [(row.trial, row.data["cause"]) for row in run.log.rows if row.kind == "failed"]
    assert timeouts
    assert {cause for _, cause in timeouts} == {"timeout"}
    assert not any(row.kind == "ticked" for row in run.log.rows)


def test_a_budget_of_time_ends_exactly() -> None:
    run = Scenario(trials=50, settings={"time_budget": 12.3}).run()
    assert run.log.rows[-1].time == pytest.approx(12.3)
    assert sum(row.kind == "ticked" for row in run.log.rows) == 1


def test_a_turn_of_nothing_writes_nothing() -> None:
    run = Scenario(trials=2).build()
    run.runner.take([])
    assert run.log.rows == []


def test_several_facts_are_one_transaction(clock: list[float]) -> None:
    run = Scenario(trials=4, nodes=({"cpu": 4.0},), real=True).build()
    run.runner.start()
    run.runner.turn()
    run.runner.turn()
    facts = [row.kind for row in run.log.rows if row.kind not in EFFECTS]
    assert facts == ["capacity", *["suggested"] * 4]
    assert len(run.log.commits) == 2


# ------------------------------------------------------------------------------- a new driver


def test_resume_on_a_real_clock_tells_first_that_it_resumed() -> None:
    run = Scenario(trials=3, batch=1).build()
    run.runner.start()
    for _ in range(8):
        run.runner.turn()
    again = Scenario(trials=3, batch=1, real=True).build(run.log.cut(len(run.log.rows)))
    recover(again.runner)
    assert [event.kind for event in again.runner.early] == ["resumed", "capacity"]
    before = len(again.controller.launches)
    again.runner.turn()
    launches: list[Launch] = again.controller.launches[before:]
    assert len({launch.trial for launch in launches}) == len(launches) == 2
    assert all(again.log.trials[launch.trial].status == "STARTING" for launch in launches)


def test_retrying_what_failed() -> None:
    scenario = Scenario(trials=3, faults=Faults(exception=0.15), seed=4)
    first = scenario.run()
    failed = [row.trial for row in first.log.trials.values() if row.status == "FAILED"]
    assert failed
    again = scenario.build(first.log.cut(len(first.log.rows)))
    recover(again.runner, retry_failed=True)
    assert all(n in again.searcher.known and n not in again.searcher.told for n in failed)
    again.drive()
    assert all(again.log.trials[n].attempt > 1 for n in failed)
    assert set(again.searcher.told) == {0, 1, 2}
    third = scenario.build(again.log.cut(len(again.log.rows) - 1))
    recover(third.runner)
    third.drive()
    assert third.log.text() == again.log.text()


def test_memory_does_not_grow_with_ended_trials() -> None:
    run = Scenario(trials=400, faults=Faults(exception=0.02), checkpoint_every=3).build()
    run.runner.start()
    most = 0
    for _ in range(20_000):
        if run.controller.finished is not None:
            break
        run.runner.turn()
        most = max(most, len(run.controller.state.trials))
    assert most <= 8
    assert not run.controller.state.shelf.holders


def test_settings_are_plain() -> None:
    settings = Scenario().make_settings()
    assert dataclasses.replace(settings, num_samples=math.inf).num_samples == math.inf
    assert isinstance(Scenario().build().runner, Runner)


def test_the_real_clock_is_used_where_nothing_is_patched() -> None:
    run = Scenario(trials=1, real=True).build()
    before = run.runner.elapsed()
    time.sleep(0.01)
    assert run.runner.elapsed() - before >= 0.01
