"""The virtual clock and its simulated workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.support import Scenario
from tune_platform.backends.simulated import Faults, SimulatedBackend, _uniform, table_curve
from tune_platform.protocol.backend import Backend, Job
from tune_platform.protocol.commands import Advance, Launch, Release, Save
from tune_platform.protocol.events import Event, Failed, Reported, Requested, Resumed, Saved, Started
from tune_platform.resources import Resources
from tune_platform.testing.backends import BackendContract, Curve


class TestSimulated(BackendContract):
    runs_code = False

    def make_backend(self, curve: Curve) -> Backend:
        return SimulatedBackend(curve, workers=2)


def curve(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
    return {"loss": 1 / step, "epoch": 2 * step} if step <= 10 else None


def make(*, faults: Faults | None = None, job: Mapping[str, Any] | None = None, **options: Any) -> SimulatedBackend:
    backend = SimulatedBackend(curve, step_time=lambda config, step: 1.0, faults=faults, **options)
    backend.start(Job(experiment="x", trainable=None, metrics=("loss",), **(job or {})))
    return backend


def launch(trial: int = 0, **values: Any) -> Launch:
    options: dict[str, Any] = {
        "attempt": 1, "config": {}, "checkpoint": None, "start": 0, "committed": 0,
        "until": None, "save": False, "resources": Resources(), "nodes": (0,), **values,
    }  # fmt: skip
    return Launch(trial=trial, **options)


def steps(event: Event) -> list[int]:
    assert isinstance(event, Reported)
    return [report.step for report in event.reports]


def test_runs_to_the_end_in_batches() -> None:
    backend = make(batch=4, setup_time=5.0)
    backend.submit([launch()])
    (started,) = backend.poll(None)
    assert (type(started), started.time) == (Started, 5.0)
    events = [backend.poll(None)[0] for _ in range(3)]
    assert [steps(event) for event in events] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert [event.time for event in events] == [9.0, 13.0, 15.0]
    assert [getattr(event, "done", None) for event in events] == [False, False, True]
    assert backend.poll(None) == []


def test_waits_at_the_milestone_and_saves_there() -> None:
    backend = make(job={"resource": "epoch"})
    backend.submit([launch(until=5, save=True)])
    (event,) = backend.poll(None)
    assert steps(event) == [1, 2, 3]
    assert isinstance(event, Reported)
    assert [ref.step for ref in event.saved] == [3]
    assert backend.poll(None) == []
    backend.submit([Advance(trial=0, until=7, save=False)])
    assert steps(backend.poll(None)[0]) == [4]


def test_stop_conditions_halt() -> None:
    backend = make(job={"stop": {"step": 4}})
    backend.submit([launch()])
    assert steps(backend.poll(None)[0]) == [1, 2, 3, 4]
    assert backend.poll(None) == []


def test_the_clock_stands_still_unless_somebody_waits() -> None:
    backend = make(batch=1)
    backend.submit([launch()])
    assert backend.poll(0.0) == []
    assert backend.now() == 0.0
    assert backend.poll(0.4) == []
    assert backend.now() == 0.4
    assert len(backend.poll(5.0)) == 1
    assert backend.now() == 1.0


def test_save_acts_after_the_present_step_and_the_trial_goes_on() -> None:
    backend = make(batch=4)
    backend.submit([launch()])
    assert backend.poll(1.5) == []
    backend.submit([Save(trial=0)])
    first, second, third = (backend.poll(None)[0] for _ in range(3))
    assert (steps(first), first.time) == ([1, 2], 2.0)
    assert isinstance(second, Saved)
    assert second.checkpoint is not None
    assert (second.checkpoint.step, second.time) == (2, 2.0)
    assert (steps(third), third.time) == ([3, 4, 5, 6], 6.0)


def test_save_with_halt_waits_there_until_it_is_sent_on() -> None:
    backend = make(batch=4, setup_time=1.0)
    backend.submit([launch(until=8, save=True), Save(trial=0), Save(trial=0, halt=True)])
    events = [event for _ in range(5) for event in backend.poll(None)]
    assert [type(event) for event in events] == [Started, Reported, Saved], "after its first step"
    assert (steps(events[1]), events[1].time) == ([1], 2.0)
    backend.submit([Advance(trial=0, until=3, save=False)])
    assert steps(backend.poll(None)[0]) == [2, 3]


def test_replay_of_a_save_that_halts() -> None:
    one, other = make(batch=3), make(batch=3)
    for backend in (one, other):
        backend.submit([launch(0), launch(1)])
    assert one.poll(0.5) == []
    asked = Requested(time=0.5, request=1, action="pause", trial=0)
    one.submit([Save(trial=0, halt=True)])
    other.replay(asked, [Save(trial=0, halt=True)])
    seen = [event for _ in range(2) for event in one.poll(None)]
    assert [type(event) for event in seen] == [Reported, Saved]
    for event in seen:
        other.replay(event, [])
    assert one.poll(None) == other.poll(None)


def test_a_log_without_started_events_is_replayed() -> None:
    one, other = make(setup_time=2.0), make(setup_time=2.0)
    for backend in (one, other):
        backend.submit([launch(until=2)])
    one.poll(None)
    (event,) = one.poll(None)
    other.replay(event, [])
    assert other.now() == one.now() == 4.0


def test_save_of_one_that_waits() -> None:
    backend = make()
    backend.submit([launch(until=1)])
    backend.poll(None)
    backend.submit([Save(trial=0)])
    assert backend.poll(0.0) == [], "it is due at this very moment, but nobody waits"
    assert isinstance(backend.poll(None)[0], Saved)
    assert backend.poll(None) == []


def test_committed_reports_are_not_sent_again() -> None:
    backend = make()
    backend.submit([launch(start=2, committed=5, until=7)])
    (event,) = backend.poll(None)
    assert steps(event) == [6, 7]
    assert event.time == 5.0  # steps 3 to 7 were done


def test_release_ends_it_and_a_new_attempt_has_its_own_events() -> None:
    backend = make()
    backend.submit([launch(), launch(1)])
    backend.submit([Release(trial=0), Release(trial=9)])
    assert {getattr(event, "trial", None) for event in backend.poll(None)} == {1}
    backend.submit([launch(0, attempt=2)])
    (event,) = backend.poll(None)
    assert isinstance(event, Reported)
    assert event.attempt == 2


@pytest.mark.parametrize(
    ("faults", "cause"),
    [(Faults(exception=1), "exception"), (Faults(worker_died=1), "worker_died"), (Faults(nan=1), "bad_metric")],
)
def test_faults(faults: Faults, cause: str) -> None:
    backend = make(faults=faults)
    backend.submit([launch(), Save(trial=0)])
    events = [event for _ in range(5) for event in backend.poll(None)]
    if cause == "bad_metric":
        assert steps(events.pop(0)) == [1]
    assert len(events) == 1, "nothing more comes of a trial that has failed"
    assert isinstance(events[0], Failed)
    assert (events[0].cause, events[0].message) == (cause, "injected at step 1")


def test_a_hang_keeps_what_was_reported_before() -> None:
    rate = 0.3
    backend = make(faults=Faults(hang=rate))
    trial = next(n for n in range(99) if _uniform(0, n, 1, 1) > rate and _uniform(0, n, 2, 1) < rate)
    backend.submit([launch(trial)])
    assert steps(backend.poll(None)[0]) == [1]
    backend.submit([Save(trial=trial)])
    assert backend.poll(None) == [], "one that hangs answers nothing"


def test_fault_rates_are_as_asked() -> None:
    backend = make(faults=Faults(exception=0.1, nan=0.2))
    causes = [backend._fault(launch(n), 3) for n in range(20_000)]
    assert causes.count("exception") / 20_000 == pytest.approx(0.1, abs=0.01)
    assert causes.count("bad_metric") / 20_000 == pytest.approx(0.2, abs=0.01)


def test_replay_finds_the_work_in_flight() -> None:
    one, other = make(batch=3), make(batch=3)
    for backend in (one, other):
        backend.submit([launch(0), launch(1)])
    event = one.poll(None)[0]
    other.replay(event, [Release(trial=1)])
    one.submit([Release(trial=1)])
    assert one.poll(None) == other.poll(None)
    with pytest.raises(ValueError, match="curve or faults were changed"):
        other.replay(event, [])


def test_a_new_driver_that_resumed_finds_nothing_in_flight() -> None:
    backend = make()
    backend.submit([launch()])
    backend.replay(Resumed(time=3.0), [])
    assert backend.poll(None) == []
    assert backend.now() == 3.0


def test_table_curve() -> None:
    table = table_curve({"a": [3.0, 2.0]}, "loss", "arch")
    assert [table({"arch": "a"}, step) for step in (1, 2, 3)] == [{"loss": 3.0}, {"loss": 2.0}, None]


def test_close_twice() -> None:
    backend = make()
    backend.submit([launch()])
    backend.close()
    backend.close()
    assert backend.poll(None) == []


def test_a_thousand_workers() -> None:
    run = Scenario(scheduler="stopping", trials=1500, nodes=({"cpu": 1000.0},)).build()
    run.controller._check = lambda commands: None  # type: ignore[method-assign]
    run.runner.start()
    run.drive(limit=100_000)
    assert len(run.log.trials) == 1500
