"""A conformance suite for schedulers. Subclass it in your own tests:

    class TestMine(SchedulerContract):
        def make_scheduler(self):
            return Mine(max=9)

The suite plays whole experiments against the scheduler, with the engine itself and a made-up cluster, and needs
nothing but pytest. `FakeTrial` and `FakeCandidates` serve for tests of a single decision.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tune_platform.protocol.checks import check_scheduler
from tune_platform.protocol.reports import Config, Report
from tune_platform.protocol.scheduler import Scheduler, TrialView
from tune_platform.testing.play import Lot, Play, World, memory


@dataclass
class FakeTrial:
    """A trial as a scheduler sees it, and where it stands, for the test's own use."""

    number: int
    config: Config
    last: Report | None = None
    status: str = "waiting"  # waiting | running | paused | over


@dataclass
class FakeCandidates:
    """What may take a free place; `unfit` are those that a person holds, or that do not fit now."""

    trials: dict[int, FakeTrial]
    unfit: set[int] = field(default_factory=set)

    def waiting(self) -> Iterator[TrialView]:
        """Trials that wait and fit, oldest first."""
        for number, trial in sorted(self.trials.items()):
            if trial.status == "waiting" and number not in self.unfit:
                yield trial

    def paused(self, number: int) -> TrialView | None:
        """The paused trial, if it may go on now."""
        trial = self.trials.get(number)
        return trial if trial is not None and trial.status == "paused" and number not in self.unfit else None


class SchedulerContract:
    """The rules that every scheduler keeps."""

    #: How far the resource rises with one report.
    increment: float = 1

    def make_scheduler(self) -> Scheduler:
        """Return a new scheduler, each time the same."""
        raise NotImplementedError

    def metrics(self, scheduler: Scheduler, step: int, draw: random.Random) -> dict[str, Any]:
        """Return what a trial reports at a step; override it where your scheduler needs more."""
        metrics: dict[str, Any] = {"loss": round(draw.random(), 1)}  # one digit: there are ties
        if scheduler.resource not in ("step", "training_iteration"):
            metrics[scheduler.resource] = step * self.increment
        return metrics

    def world(self, seed: int, **options: Any) -> World:
        """Return the circumstances of a play: see `World`."""
        scheduler = self.make_scheduler()
        return World(metrics=lambda step, draw: self.metrics(scheduler, step, draw), seed=seed, **options)

    def test_it_has_what_the_engine_calls(self) -> None:
        """All of the protocol is there, and `state` goes with `load_state`."""
        scheduler = self.make_scheduler()
        check_scheduler(scheduler, [])
        assert hasattr(scheduler, "state") == hasattr(scheduler, "load_state"), "state and load_state go together"

    @pytest.mark.parametrize("mode", ["min", "max"])
    @pytest.mark.parametrize("seed", range(8))
    def test_decisions_keep_the_rules(self, seed: int, mode: str) -> None:
        """Decisions can be carried out and have reasons, questions change nothing, and the experiment ends.

        It ends twice: after the end of the supply a person extends it.
        """
        Play(self.make_scheduler(), self.world(seed, mode=mode)).go()

    @pytest.mark.parametrize("seed", range(16))
    def test_anything_may_happen_at_any_moment(self, seed: int) -> None:
        """Trials fail, are tried again, stopped, paused and added by persons; drivers restart, nodes come and go.

        Whatever happens, the scheduler does not wait for ever for what does not come.
        """
        Play(self.make_scheduler(), self.world(seed, trouble=(0.05, 0.2, 0.5)[seed % 3], places=1 + seed % 5)).go()

    @pytest.mark.parametrize("seed", range(6))
    def test_being_told_the_history_rebuilds_it(self, seed: int) -> None:
        """A new object that is told a history, cut anywhere, decides as the one that lived through it."""
        whole = self._whole(seed)
        for cut in self._cuts(whole, seed):
            again = Play(self.make_scheduler(), whole.world)
            again.retell(whole.past[:cut])
            assert not again.difference, f"told the first {cut} facts: {again.difference}"
            self._same_from(again, whole, cut)

    @pytest.mark.parametrize("seed", range(6))
    def test_its_state_stands_for_the_history(self, seed: int) -> None:
        """`load_state` of what `state` gave, as plain JSON, is as good as being told the history."""
        if not hasattr(self.make_scheduler(), "state"):
            pytest.skip("it does not offer its state: a resumed experiment tells it the whole history")
        whole = self._whole(seed)
        for cut in self._cuts(whole, seed):
            again = Play(self.make_scheduler(), whole.world)
            again.retell(whole.past[:cut])
            told: Any = again.referee.scheduler
            loaded: Any = self.make_scheduler()
            loaded.setup(metric="loss", mode=whole.world.mode, seed=whole.world.seed)
            loaded.load_state(json.loads(json.dumps(told.state())))
            assert memory(loaded) == memory(told), f"state after {cut} facts"
            again.referee.scheduler = loaded
            self._same_from(again, whole, cut)

    @pytest.mark.parametrize("seed", range(16))
    def test_it_bears_a_log_that_decided_otherwise(self, seed: int) -> None:
        """Told of verdicts and choices that are not its own, it decides soundly afterwards, to the end.

        So an experiment goes on after its scheduler's code has changed.
        """
        world = self.world(seed, trouble=(0.0, 0.1)[seed % 2])
        other = Play(Lot(self.make_scheduler().resource, seed), world)
        other.referee.told_otherwise = True
        other.go(moves=20 * (1 + seed))
        play = Play(self.make_scheduler(), world)
        play.retell(other.past)
        play.go()

    def test_setup_starts_from_nothing(self) -> None:
        """After `setup`, an object that has been used is as good as new."""
        used, world = self.make_scheduler(), self.world(0)
        Play(used, world).go(moves=100)
        again, new = Play(used, world), Play(self.make_scheduler(), world)
        assert memory(used) == memory(new.referee.scheduler), "setup leaves something over"
        again.go()
        new.go()
        assert again.past == new.past, "set up again it decides otherwise than a new one"

    def test_nothing_to_choose(self) -> None:
        """Without candidates none is chosen."""
        assert self._new().choose(FakeCandidates({})) is None

    def test_a_trial_that_fits_is_started(self) -> None:
        """With a place free, nothing running and trials waiting, one of them starts."""
        scheduler = self._new()
        candidates = FakeCandidates({n: FakeTrial(n, {"x": 0.5}) for n in range(3)}, unfit={0})
        for trial in candidates.trials.values():
            scheduler.on_add(trial)
        assert scheduler.choose(candidates) in (1, 2)

    def _new(self) -> Scheduler:
        scheduler = self.make_scheduler()
        scheduler.setup(metric="loss", mode="min", seed=0)
        return scheduler

    def _whole(self, seed: int) -> Play:
        play = Play(self.make_scheduler(), self.world(seed, trials=10, trouble=0.15))
        play.go()
        return play

    def _cuts(self, whole: Play, seed: int) -> list[int]:
        return random.Random(seed).sample(range(len(whole.past) + 1), 5)

    def _same_from(self, again: Play, whole: Play, cut: int) -> None:
        """See that what follows from each later fact is what followed from it in the whole play."""
        for event, _, effects in whole.past[cut:]:
            again.feed(event)
            assert again.past[-1][2] == effects, (
                f"rebuilt after the first {cut} facts, it says something else about {event}: what it knows is not all "
                "in state() and load_state(), or is no function of what it hears"
            )
        assert memory(again.referee.scheduler) == memory(whole.referee.scheduler), "it ends up knowing something else"
