"""Snapshots: a short cut that leads to the same state as the whole log."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import MemoryLog, Run, Scenario
from tests.tune_platform.engine.test_invariants import scenarios
from tune_platform.backends.simulated import Faults
from tune_platform.engine import snapshot
from tune_platform.engine.controller import Controller
from tune_platform.engine.recovery import recover
from tune_platform.engine.spending import Limits
from tune_platform.protocol.events import CapacityChanged, Resumed
from tune_platform.resources import Resources

WITH = snapshot.Searcher({"x": 1}, [7])
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot at nearly every turn, and a loop whose own clock stands still: runs can be compared."""
    monkeypatch.setattr(snapshot, "EVERY", 5)
    monkeypatch.setattr(snapshot, "SHARE", 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)


def state_of(run: Run) -> Any:
    text = snapshot.to_text(run.controller.state, WITH)
    assert text is not None
    return json.loads(text)


def living(run: Run) -> Any:
    """Without the trials that failed, which are kept only where they may be tried again."""
    state = state_of(run)
    state["trials"] = [trial for trial in state["trials"] if trial["status"] != "FAILED"]
    uris = {ref[2] for trial in state["trials"] for _, ref, _ in trial["checkpoints"]}
    state["holders"] = {uri: count for uri, count in state["holders"].items() if uri in uris}
    return state


def searcher_of(run: Run) -> Any:
    searcher = run.searcher
    told = {number: (o.status, o.value, o.step) for number, o in searcher.told.items()}
    return told, {number: dict(config) for number, config in searcher.known.items()}


def recovered(scenario: Scenario, log: MemoryLog) -> Run:
    run = scenario.build(log)
    recover(run.runner)
    return run


@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(scenarios(max_trials=8), st.sampled_from(["fifo", "stopping", "promotion", "epochs"]), st.data())
def test_a_snapshot_and_the_rest_of_the_log_are_as_good_as_all_of_it(
    scenario: Scenario, scheduler: str, data: st.DataObject
) -> None:
    scenario.scheduler, scenario.real, scenario.stateful = scheduler, True, True
    never = dict.fromkeys(("step_timeout", "time_budget"), float("inf"))
    scenario.settings = {**scenario.settings, **never, "limits": Limits()}
    if scenario.faults is not None:
        scenario.faults = Faults(exception=0.1, worker_died=0.05, nan=0.02)
    whole = scenario.run()
    seqs = [seq for seq, _ in whole.log.saved]
    assert seqs or len(whole.log.rows) < 30
    cut = data.draw(st.integers(0, len(whole.log.rows)), label="cut")
    short, long = whole.log.cut(cut), whole.log.cut(cut)
    long.saved = []
    older: bool = data.draw(st.booleans(), label="an older one")
    if short.saved and older:
        short.saved = short.saved[:1]
    one, other = recovered(scenario, short), recovered(scenario, long)
    assert living(one) == living(other)
    assert [event.kind for event in one.runner.early] == [event.kind for event in other.runner.early]
    one.drive()
    other.drive()
    assert one.log.text() == other.log.text()
    assert searcher_of(one) == searcher_of(other)
    assert state_of(one) == state_of(other)


def busy(**changes: Any) -> Scenario:
    values: dict[str, Any] = {"scheduler": "promotion", "trials": 10, "real": True, "stateful": True, "batch": 1}
    return Scenario(**(values | changes))


def test_only_the_tail_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = busy()
    log = scenario.run().log
    (seq, _) = log.saved[-1]
    read: list[int] = []
    again = scenario.build(log.cut())

    def read_log(after: int = 0) -> Any:
        read.append(after)
        return MemoryLog.read_log(again.log, after)

    monkeypatch.setattr(again.log, "read_log", read_log)
    recover(again.runner)
    assert set(read) == {seq}
    assert seq > len(log.rows) - 20


def test_a_snapshot_is_made_when_enough_was_written() -> None:
    log = busy().run().log
    seqs = [seq for seq, _ in log.saved]
    assert len(seqs) > 5
    assert all(later - earlier >= 5 for earlier, later in zip([0, *seqs], seqs, strict=False))
    # It goes into the transaction of the next turn, and says what the log meant before that.
    assert set(seqs) <= set(log.commits)


def test_what_failed_before_the_snapshot_is_tried_again() -> None:
    scenario = busy(scheduler="fifo", faults=Faults(exception=0.1), seed=3, trials=12)
    log = scenario.run().log
    failed = {row.trial for row in log.trials.values() if row.status == "FAILED"}
    assert failed
    assert min(failed) < 6
    again = scenario.build(log.cut())
    recover(again.runner, retry_failed=True)
    again.drive()
    assert {number for number, row in again.log.trials.items() if row.attempt > 1} == failed
    # And a third driver, whose newest snapshots may be older than that.
    for seq in again.log.commits[-30:]:
        short = again.log.cut(seq)
        short.saved = short.saved[: len(log.saved)]
        third = scenario.build(short)
        recover(third.runner)
        third.drive()
        assert {number for number, row in third.log.trials.items() if row.attempt > 1} >= failed


def test_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "EVERY", 100)
    monkeypatch.setattr(snapshot, "SHARE", 0.1)
    assert [snapshot.due(seq, 0) for seq in (0, 99, 100)] == [False, False, True]
    assert [snapshot.due(seq, 5000) for seq in (5100, 5555, 5556)] == [False, False, True]


@pytest.mark.parametrize("unusable", ["version", "scheduler", "searcher", "virtual"])
def test_a_snapshot_that_cannot_be_used_is_passed_over(unusable: str) -> None:
    scenario = busy()
    log = scenario.run().log.cut()
    expected = state_of(recovered(scenario, log.cut()))
    if unusable == "version":
        log.saved = [(seq, json.dumps({**json.loads(text), "version": 2})) for seq, text in log.saved]
    again = scenario.build(log)
    if unusable == "scheduler":
        again.controller.state.scheduler = Silent(again.controller.scheduler)
    elif unusable == "searcher":
        scenario.stateful = False
        again = scenario.build(log)
    elif unusable == "virtual":
        again.backend.virtual = True
        again.backend.replay = lambda event, work: None  # type: ignore[method-assign]
    loaded: list[Any] = []
    original = snapshot.load

    def load(state: Any, text: str, take: Any) -> Any:
        loaded.append(original(state, text, take))
        return loaded[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(snapshot, "load", load)
        recover(again.runner)
    assert loaded == ([None] * len(log.saved) if unusable in ("version", "scheduler") else [])
    if unusable == "scheduler":
        again.controller.state.scheduler = again.controller.scheduler
    assert state_of(again)["trials"] == expected["trials"]


@pytest.mark.parametrize("part", ["scheduler", "searcher"])
def test_code_that_does_not_know_its_own_state_any_more_reads_the_log(
    part: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A state of another release, half taken over before that shows, leaves nothing behind."""
    scenario = busy()
    log = scenario.run().log.cut()
    expected = recovered(scenario, log.cut())
    again = scenario.build(log)
    changed: Any = again.controller.scheduler if part == "scheduler" else again.searcher
    original = changed.load_state

    def load_state(data: Mapping[str, Any]) -> None:
        original(data)
        raise KeyError("a field that was added since")

    changed.load_state = load_state
    recover(again.runner)
    assert "a field that was added since" in caplog.text
    assert living(again) == living(expected)
    assert searcher_of(again) == searcher_of(expected)
    assert again.runner._snapshot == 0
    again.drive()


@pytest.mark.parametrize("part", ["scheduler", "searcher"])
@pytest.mark.parametrize("state", [RuntimeError("no"), {"x": {1, 2}}])
def test_a_state_that_is_not_to_be_had_ends_no_search(part: str, state: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = busy().build()
    changed: Any = run.controller.scheduler if part == "scheduler" else run.searcher

    def give() -> Any:
        if isinstance(state, Exception):
            raise state
        return state

    changed.state = give
    run.runner.start()
    assert run.drive().status == "finished"
    assert run.log.saved == []
    assert "no snapshot was made" in caplog.text


class Silent:
    """A scheduler that offers no state."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def __getattr__(self, name: str) -> Any:
        if name in ("state", "load_state"):
            raise AttributeError(name)
        return getattr(self._scheduler, name)


@pytest.mark.parametrize("changes", [{"scheduler": "pbt"}, {"stateful": False}])
def test_none_is_made_where_scheduler_or_searcher_offer_no_state(changes: Mapping[str, Any]) -> None:
    run = busy(**changes).run()
    assert run.log.saved == []
    assert len(run.log.rows) > 30


def test_none_is_written_that_a_database_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(trials=6, real=True, stateful=True)
    assert scenario.run().log.saved
    monkeypatch.setattr(snapshot, "LARGEST", 100)
    run = scenario.run()
    assert not run.log.saved
    assert run.controller.finished is not None


def test_a_newer_one_that_cannot_be_used_leaves_the_older() -> None:
    scenario = busy()
    log = scenario.run().log.cut()
    seq, text = log.saved[-1]
    log.saved[-1] = (seq, json.dumps({**json.loads(text), "version": 99}))
    run = scenario.build(log)
    recover(run.runner)
    assert run.runner._snapshot == log.saved[-2][0]


def test_a_snapshot_is_plain_and_small() -> None:
    """It holds what lives: its size does not grow with ended trials."""
    sizes = {}
    for trials in (20, 200):
        run = busy(scheduler="fifo", trials=trials).run()
        data = json.loads(run.log.saved[-1][1])
        assert data["version"] == snapshot.VERSION
        sizes[trials] = len(data["trials"])
    assert max(sizes.values()) <= 4


def test_the_state_of_every_moment_survives() -> None:
    """At each turn of a run with persons, gangs, faults and clones of none: loaded, the state is the same."""
    scenario = busy(
        trials=12,
        nodes=({"cpu": 2.0}, {"cpu": 1.0}),
        choices={"workers": [1, 2]},
        faults=Faults(exception=0.1),
        plan=[(9, "pause", 1, {}), (20, "unpause", 1, {}), (24, "pause", None, {}), (26, "unpause", None, {})],
        settings={"retries": {"exception": 1}, "keep_last": 2, "keep_best": 1, "target": 0.2},
        checkpoint_every=1,
    )
    run = scenario.build()
    run.runner.start()
    moments = 0
    given: list[Any] = []
    while run.controller.finished is None:
        run.runner.turn()
        text = snapshot.to_text(run.controller.state, WITH)
        assert text is not None
        other = Controller(scenario.make_settings(), scenario.make_scheduler())
        assert snapshot.load(other.state, text, given.append) == WITH
        assert given[-1] == WITH.state
        again = snapshot.to_text(other.state, WITH)
        assert again == text
        other.state.check()
        assert list(other.state.placed) == list(run.controller.state.placed)
        moments += 1
    assert moments > 20


def test_who_has_lost_its_place_with_the_driver_is_in_a_snapshot() -> None:
    """They get one before all others, also where the next driver is lost before it has said what there is."""
    scenario = busy(trials=4)
    run = scenario.build()
    run.runner.start()
    for _ in range(6):
        run.runner.turn()
    placed = list(run.controller.state.placed)
    run.controller.handle(Resumed(time=run.runner.backend.now()))
    text = snapshot.to_text(run.controller.state, WITH)
    assert text is not None
    other = Controller(scenario.make_settings(), scenario.make_scheduler())
    snapshot.load(other.state, text, lambda data: None)
    assert list(other.state.returning) == list(run.controller.state.returning) == placed != []


def test_what_a_lost_node_had_is_in_a_snapshot() -> None:
    """A trial that waits for such a node does not fail because the driver was lost meanwhile."""
    scenario = busy(trials=4, nodes=({"cpu": 2.0}, {"cpu": 1.0}))
    run = scenario.build()
    run.runner.start()
    for _ in range(6):
        run.runner.turn()
    run.controller.handle(CapacityChanged(time=run.runner.backend.now(), nodes=({}, {"cpu": 1.0})))
    text = snapshot.to_text(run.controller.state, WITH)
    assert text is not None
    other = Controller(scenario.make_settings(), scenario.make_scheduler())
    snapshot.load(other.state, text, lambda data: None)
    needs = Resources(cpu=2)
    assert not other.state.ledger.possible(needs)
    assert other.state.ledger.was_possible(needs)
    assert other.state.ledger.peak == run.controller.state.ledger.peak == [{"cpu": 2.0}, {"cpu": 1.0}]
