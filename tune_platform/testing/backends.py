"""`BackendContract`: what every backend must do, as tests. Subclass it, give `make_backend`, and run pytest.

    class TestMine(BackendContract):
        def make_backend(self, curve):
            return MyBackend(...)

The trials follow a curve, `curve(config, step) -> metrics`, or None once the training has ended. A backend that
runs code gets a Trainable that follows it as `job.trainable`; a simulated one takes it directly.
"""

# ruff: noqa: D102 (the name of a test says what it checks)
from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tune_platform.protocol.backend import Backend, Job
from tune_platform.protocol.commands import Advance, Launch, Release, Save
from tune_platform.protocol.events import CapacityChanged, Event, Failed, Reported, Saved, Started
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.resources import Resources
from tune_platform.trainable import Trainable

Curve = Callable[[Mapping[str, Any], int], Mapping[str, Any] | None]


def trainable_of(curve: Curve) -> type[Trainable]:
    """Return a Trainable that reports `curve(config, step)` and whose checkpoint is its step."""

    # Local, so that it travels to workers by value: they need not import this module.
    class CurveTrainable(Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.now = 0

        def step(self) -> Mapping[str, Any] | None:
            self.now += 1
            return curve(self.config, self.now)

        def save_checkpoint(self, directory: Path) -> None:
            (directory / "state.json").write_text(json.dumps({"step": self.now}))

        def load_checkpoint(self, directory: Path) -> None:
            self.now = json.loads((directory / "state.json").read_text())["step"]

    return CurveTrainable


def state_trainable_of(curve: Curve) -> type[Trainable]:
    """Return such a trainable that hands its state over as an object instead of files."""

    class StateTrainable(Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.now = 0

        def step(self) -> Mapping[str, Any] | None:
            self.now += 1
            return curve(self.config, self.now)

        def get_state(self) -> Any:
            return {"step": self.now}

        def set_state(self, state: Any) -> None:
            self.now = state["step"]

    return StateTrainable


def launch(trial: int, until: float | None, **changes: Any) -> Launch:
    """Return a first launch of `trial` on the first node; `changes` are fields of Launch."""
    fields: dict[str, Any] = {
        "attempt": 1,
        "config": {"x": float(trial)},
        "checkpoint": None,
        "start": 0,
        "committed": 0,
        "save": False,
        "resources": Resources(cpu=1),
        "nodes": (0,),
    }
    return Launch(trial=trial, until=until, **(fields | changes))


def falling(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
    """Return a loss that falls with the step; 20 steps long."""
    return {"loss": config["x"] + 1 / step} if step <= 20 else None


def endless(config: Mapping[str, Any], step: int) -> Mapping[str, Any]:
    """Return a loss that falls with the step, without an end; a step takes some milliseconds."""
    time.sleep(0.003)
    return {"loss": config["x"] + 1 / step}


class Watch:
    """Collects the events of a backend until something has happened."""

    def __init__(self, backend: Backend, patience_s: float = 60.0) -> None:
        self.backend = backend
        self.events: list[Event] = []
        self._patience_s = patience_s

    def until(self, happened: Callable[[], Any]) -> None:
        """Poll until `happened()` is true; raise AssertionError after `patience_s` seconds of real time."""
        end = time.monotonic() + self._patience_s
        while not happened():
            assert time.monotonic() < end, f"nothing more happened; the events so far: {self.events}"
            self.events += self.backend.poll(0.2)

    def settle(self, seconds: float = 0.5) -> None:
        """Poll on for a while, for what should not happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.events += self.backend.poll(0.1)

    def reports(self, trial: int) -> list[Report]:
        """Return the reports of a trial so far."""
        return [r for e in self.events if isinstance(e, Reported) and e.trial == trial for r in e.reports]

    def steps(self, trial: int) -> list[int]:
        """Return the step numbers reported by a trial so far."""
        return [report.step for report in self.reports(trial)]

    def has_steps(self, trial: int, *steps: int) -> bool:
        """Whether a trial has reported exactly these steps so far."""
        return self.steps(trial) == list(steps)

    def done(self, trial: int) -> bool:
        """Whether the training code of a trial has come to its end."""
        return any(isinstance(e, Reported) and e.trial == trial and e.done for e in self.events)

    def saved(self, trial: int) -> list[CheckpointRef]:
        """Return the checkpoints of a trial, however they were asked for."""
        refs = [ref for e in self.events if isinstance(e, Reported) and e.trial == trial for ref in e.saved]
        asked = [e.checkpoint for e in self.events if isinstance(e, Saved) and e.trial == trial]
        return refs + [ref for ref in asked if ref is not None]

    def answers(self, trial: int) -> list[CheckpointRef | None]:
        """Return the answers to the Saves of a trial."""
        return [e.checkpoint for e in self.events if isinstance(e, Saved) and e.trial == trial]

    def failure(self, trial: int) -> Failed | None:
        """Return the failure of a trial, if it has failed."""
        return next((e for e in self.events if isinstance(e, Failed) and e.trial == trial), None)


class BackendContract:
    """What every backend must do. `runs_code`: it runs `job.trainable`, so that user code can go wrong."""

    runs_code = True
    #: Slots of one CPU that `make_backend` offers; 2 at least.
    slots = 2

    def make_backend(self, curve: Curve) -> Backend:
        """Return a new backend with `slots` CPUs on its first node."""
        raise NotImplementedError("give make_backend(curve)")

    @contextmanager
    def opened(self, curve: Curve, tmp_path: Path, **job: Any) -> Iterator[Watch]:
        """Give a started backend, and close it."""
        backend = self.make_backend(curve)
        fields: dict[str, Any] = {
            "experiment": "contract",
            "trainable": trainable_of(curve),
            "metrics": ("loss",),
            "checkpoints": str(tmp_path / "checkpoints"),
            "directory": str(tmp_path / "trials"),
            "flush_s": 0.2,
        }
        try:
            capacity = backend.start(Job(**(fields | job)))
            assert isinstance(capacity, CapacityChanged)
            assert capacity.nodes[0]["cpu"] >= self.slots
            yield Watch(backend)
        finally:
            backend.close()

    def test_it_stops_at_the_milestone_and_goes_on_from_there(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path) as watch:
            watch.backend.submit([launch(0, 3)])
            watch.until(lambda: watch.steps(0) == [1, 2, 3])
            watch.settle()
            assert watch.steps(0) == [1, 2, 3]
            watch.backend.submit([Advance(trial=0, until=5, save=False)])
            watch.until(lambda: watch.steps(0) == [1, 2, 3, 4, 5])
            assert [r.metrics["loss"] for r in watch.reports(0)] == [1 / step for step in range(1, 6)]

    def test_a_trial_that_ends_by_itself_says_so_once_all_is_reported(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path) as watch:
            watch.backend.submit([launch(0, None)])
            watch.until(lambda: watch.done(0))
            assert watch.steps(0) == list(range(1, 21))

    def test_known_reports_are_done_again_but_not_sent_again(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path) as watch:
            watch.backend.submit([launch(0, 6, attempt=2, committed=4)])
            watch.until(lambda: 6 in watch.steps(0))
            assert watch.steps(0) == [5, 6]

    def test_what_others_are_to_go_on_from_is_saved_again_on_the_way(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path) as watch:
            watch.backend.submit([launch(0, 6, attempt=2, committed=4, again=(3,))])
            watch.until(lambda: 6 in watch.steps(0) and watch.saved(0))
            assert watch.steps(0) == [5, 6]
            assert [(ref.trial, ref.step) for ref in watch.saved(0)] == [(0, 3)]

    def test_trials_run_side_by_side_each_with_its_own_config(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path) as watch:
            watch.backend.submit([launch(0, 4), launch(1, 2)])
            watch.until(lambda: len(watch.steps(0)) == 4 and len(watch.steps(1)) == 2)
            assert [r.metrics["loss"] for r in watch.reports(1)] == [2.0, 1.5]

    def test_a_place_that_was_given_back_serves_other_trials(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path) as watch:
            for trial in range(2 * self.slots):
                watch.backend.submit([launch(trial, 2)])
                watch.until(partial(watch.has_steps, trial, 1, 2))
                watch.backend.submit([Release(trial=trial, kill=trial % 2 == 1)])

    def test_nothing_more_is_heard_of_a_released_trial(self, tmp_path: Path) -> None:
        with self.opened(lambda config, step: {"loss": 1.0}, tmp_path, flush_s=0.05) as watch:
            watch.backend.submit([launch(0, None)])
            watch.until(lambda: watch.steps(0))
            watch.backend.submit([Release(trial=0)])
            seen = len(watch.events)
            watch.settle()
            assert watch.events[seen:] == []
            watch.backend.submit([launch(1, 3)])
            watch.until(lambda: watch.steps(1) == [1, 2, 3])

    def test_a_milestone_brings_the_checkpoint_that_was_asked_for(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path) as watch:
            watch.backend.submit([launch(0, 3, save=True)])
            watch.until(lambda: watch.steps(0) == [1, 2, 3] and watch.saved(0))  # written behind the training
            assert [(ref.trial, ref.step) for ref in watch.saved(0)] == [(0, 3)]

    def test_checkpoints_are_written_every_so_many_steps(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path, checkpoint_every=2) as watch:
            watch.backend.submit([launch(0, 5)])
            watch.until(lambda: 5 in watch.steps(0) and len(watch.saved(0)) == 2)
            assert [ref.step for ref in watch.saved(0)] == [2, 4]

    def test_a_trial_goes_on_from_its_checkpoint(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path) as watch:
            watch.backend.submit([launch(0, 3, save=True)])
            watch.until(lambda: watch.saved(0))
            again = launch(0, 5, attempt=2, checkpoint=watch.saved(0)[0], start=3, committed=3)
            watch.backend.submit([Release(trial=0), again])
            watch.until(lambda: 5 in watch.steps(0))
            assert watch.steps(0) == [1, 2, 3, 4, 5]
            assert watch.reports(0)[-1].metrics["loss"] == 1 / 5

    def test_a_clone_goes_on_in_its_place_with_its_own_step_numbers(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path) as watch:
            watch.backend.submit([launch(0, 4, save=True), launch(1, 2)])
            watch.until(lambda: watch.saved(0) and watch.steps(1) == [1, 2])
            clone = launch(1, 3, attempt=2, checkpoint=watch.saved(0)[0], start=2, committed=2)
            watch.backend.submit([clone])
            watch.until(lambda: 3 in watch.steps(1))
            assert watch.steps(1) == [1, 2, 3]
            if self.runs_code:  # the state is the source's: its step 4 is behind it
                assert watch.reports(1)[-1].metrics["loss"] == 1.0 + 1 / 5

    def test_a_clone_takes_over_from_memory(self, tmp_path: Path) -> None:
        """It does not look into storage, where its checkpoint is deleted here; without memory that is its failure."""
        for trainable in [trainable_of(falling), state_trainable_of(falling)] if self.runs_code else []:
            with self.opened(falling, tmp_path, trainable=trainable, memory=2**20) as watch:
                watch.backend.submit([launch(0, 4, save=True), launch(1, 2)])
                watch.until(lambda: watch.saved(0) and watch.steps(1) == [1, 2])
                shutil.rmtree(tmp_path / "checkpoints" / "trial-00000")
                clone = launch(1, 3, attempt=2, checkpoint=watch.saved(0)[0], start=2, committed=2)
                watch.backend.submit([clone])
                watch.until(lambda: 3 in watch.steps(1) or watch.failure(1))
                assert watch.failure(1) is None
                assert watch.reports(1)[-1].metrics["loss"] == 1.0 + 1 / 5

    def test_what_is_not_in_memory_any_more_comes_from_storage(self, tmp_path: Path) -> None:
        """A state that is kept in memory is written as well."""
        if not self.runs_code:
            return
        with self.opened(falling, tmp_path, trainable=state_trainable_of(falling), memory=1) as watch:
            watch.backend.submit([launch(0, 4, save=True), launch(1, 2)])
            watch.until(lambda: watch.saved(0) and watch.steps(1) == [1, 2])
            clone = launch(1, 3, attempt=2, checkpoint=watch.saved(0)[0], start=2, committed=2)
            watch.backend.submit([clone])
            watch.until(lambda: 3 in watch.steps(1))
            assert watch.reports(1)[-1].metrics["loss"] == 1.0 + 1 / 5

    def test_save_is_answered_at_a_milestone(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path) as watch:
            watch.backend.submit([launch(0, 2)])
            watch.until(lambda: watch.steps(0) == [1, 2])
            watch.backend.submit([Save(trial=0)])
            watch.until(lambda: any(isinstance(event, Saved) for event in watch.events))
            assert [ref.step for ref in watch.saved(0)] == [2]

    def test_save_between_milestones_acts_after_the_present_step(self, tmp_path: Path) -> None:
        with self.opened(endless, tmp_path, flush_s=0.05) as watch:
            watch.backend.submit([launch(0, None)])
            watch.until(lambda: watch.steps(0))
            before = watch.steps(0)[-1]
            watch.backend.submit([Save(trial=0)])
            watch.until(lambda: watch.answers(0))
            (ref,) = watch.answers(0)
            assert ref is not None
            assert ref.step >= before
            answered = next(at for at, event in enumerate(watch.events) if isinstance(event, Saved))
            first = [r.step for e in watch.events[:answered] if isinstance(e, Reported) for r in e.reports]
            assert ref.step in first, "its reports come first"
            watch.until(lambda: watch.steps(0)[-1] > ref.step + 3)
            assert watch.steps(0) == list(range(1, len(watch.steps(0)) + 1)), "and the trial goes on"

    def test_save_with_halt_trains_nothing_more(self, tmp_path: Path) -> None:
        with self.opened(endless, tmp_path, flush_s=0.05) as watch:
            watch.backend.submit([launch(0, None)])
            watch.until(lambda: watch.steps(0))
            watch.backend.submit([Save(trial=0, halt=True)])
            watch.until(lambda: watch.answers(0))
            watch.settle()
            (ref,) = watch.answers(0)
            assert ref is not None
            assert watch.steps(0) == list(range(1, ref.step + 1))
            watch.backend.submit([Advance(trial=0, until=ref.step + 2, save=False)])
            watch.until(lambda: watch.steps(0)[-1] == ref.step + 2)
            assert watch.steps(0) == list(range(1, ref.step + 3))

    def test_each_save_is_answered_also_where_the_leg_ends_meanwhile(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path, flush_s=0.05) as watch:
            for trial in range(12):
                watch.backend.submit([launch(trial, 3), Save(trial=trial, halt=trial % 2 == 1)])
                watch.until(partial(watch.answers, trial))
                assert len(watch.answers(trial)) == 1
                ref = watch.answers(trial)[0]
                assert ref is not None
                assert 1 <= ref.step <= 3
                watch.backend.submit([Release(trial=trial)])

    def test_a_running_trial_is_released_after_its_present_step(self, tmp_path: Path) -> None:
        with self.opened(endless, tmp_path, flush_s=0.05) as watch:
            watch.backend.submit([launch(trial, None) for trial in range(self.slots)])
            watch.until(lambda: all(watch.steps(trial) for trial in range(self.slots)))
            watch.backend.submit([Release(trial=trial) for trial in range(self.slots)])
            seen = len(watch.events)
            watch.backend.submit([launch(trial, 3, attempt=2) for trial in range(self.slots)])
            watch.until(lambda: len(watch.events) >= seen + self.slots)
            watch.settle()
            again = [e for e in watch.events[seen:] if isinstance(e, Reported)]
            assert {e.attempt for e in again} == {2}
            assert sorted(e.trial for e in again for _ in e.reports) == sorted([*range(self.slots)] * 3)

    def test_the_start_of_a_trial_is_told_before_its_reports_if_at_all(self, tmp_path: Path) -> None:
        with self.opened(endless, tmp_path, flush_s=0.05) as watch:
            watch.backend.submit([launch(0, 40), launch(1, 40, attempt=3)])
            watch.until(lambda: len(watch.steps(0)) == len(watch.steps(1)) == 40)
            for trial, attempt in ((0, 1), (1, 3)):
                own = [e for e in watch.events if isinstance(e, (Started, Reported)) and e.trial == trial]
                assert {event.attempt for event in own} == {attempt}
                assert all(isinstance(event, Reported) for event in own[1:])

    def test_trials_go_on_while_the_driver_is_away_and_all_their_reports_are_there(self, tmp_path: Path) -> None:
        with self.opened(endless, tmp_path, flush_s=0.05) as watch:
            if not watch.backend.parallel:
                return
            watch.backend.submit([launch(0, None)])
            watch.until(lambda: watch.steps(0))
            time.sleep(2.0)
            left = time.time()
            watch.until(lambda: watch.reports(0)[-1].time > left)
            assert watch.steps(0) == list(range(1, len(watch.steps(0)) + 1))
            times = [report.time for report in watch.reports(0)]
            assert sum(left - 1.5 < at < left for at in times) > 10, "it stood still while the driver was away"

    def test_a_stop_condition_makes_the_trial_wait(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path, stop={"step": 2.0}) as watch:
            watch.backend.submit([launch(0, None)])
            watch.until(lambda: 2 in watch.steps(0))
            watch.settle()
            assert watch.steps(0) == [1, 2]

    def test_a_paused_trial_that_is_kept_warm_goes_on(self, tmp_path: Path) -> None:
        with self.opened(falling, tmp_path, keep_warm=1) as watch:
            watch.backend.submit([launch(0, 2, save=True)])
            watch.until(lambda: watch.saved(0))
            watch.backend.submit([Release(trial=0, warm=True)])
            again = launch(0, 4, attempt=2, checkpoint=watch.saved(0)[0], start=2, committed=2)
            watch.backend.submit([again])
            watch.until(lambda: 4 in watch.steps(0))
            assert watch.steps(0) == [1, 2, 3, 4]

    def test_close_may_come_twice_and_before_start(self, tmp_path: Path) -> None:
        self.make_backend(falling).close()
        with self.opened(falling, tmp_path) as watch:
            watch.backend.submit([launch(0, None)])
            watch.backend.close()

    def test_an_exception_fails_its_trial_alone(self, tmp_path: Path) -> None:
        if not self.runs_code:
            return

        def curve(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
            if config["x"] == 0 and step == 2:
                raise ArithmeticError("the loss exploded")
            return falling(config, step)

        with self.opened(curve, tmp_path) as watch:
            watch.backend.submit([launch(0, 5), launch(1, 5)])
            watch.until(lambda: watch.failure(0) and len(watch.steps(1)) == 5)
            failure = watch.failure(0)
            assert failure is not None
            assert failure.cause == "exception"
            assert "ArithmeticError: the loss exploded" in failure.message
            assert "raise ArithmeticError" in failure.traceback
            assert watch.steps(0) == [1]
            watch.backend.submit([Release(trial=0), launch(2, 2)])
            watch.until(lambda: watch.steps(2) == [1, 2])

    def test_a_metric_that_is_not_finite_fails_the_trial_after_its_report(self, tmp_path: Path) -> None:
        if not self.runs_code:
            return
        with self.opened(lambda _, step: {"loss": 1.0 if step < 3 else math.nan}, tmp_path) as watch:
            watch.backend.submit([launch(0, 5)])
            watch.until(lambda: watch.failure(0))
            failure = watch.failure(0)
            assert failure is not None
            assert failure.cause == "bad_metric"
            assert "nan at step 3" in failure.message
            assert watch.steps(0) == [1, 2, 3]
