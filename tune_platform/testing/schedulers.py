"""A conformance suite for schedulers. Subclass it in your own tests:

    class TestMine(SchedulerContract):
        def make_scheduler(self):
            return Mine(max=9)

The suite plays trials against the scheduler as the engine does, and needs nothing but pytest.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tune_platform.protocol.reports import Config, Report
from tune_platform.protocol.scheduler import Scheduler, TrialView
from tune_platform.protocol.verdicts import Clone, Continue, Pause, Stop, Verdict

#: What was called and what came back: two schedulers are the same if their stories are.
Story = list[tuple[Any, ...]]


@dataclass
class FakeTrial:
    """A trial as a scheduler sees it, and the little that the play needs to know of it."""

    number: int
    config: Config
    last: Report | None = None
    status: str = "waiting"  # waiting | running | paused | over
    until: float | None = None
    length: int = 40


@dataclass
class FakeCandidates:
    """What may take a free place. `fits` says which trials would; `held` are those that a person holds."""

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

    def play(self, seed: int, *, mode: str = "min", trials: int = 20, places: int = 4, ends: float = 0.0) -> Story:
        """Play an experiment against a new scheduler, holding every answer against the rules; return the story.

        `ends` is the share of moves at which some trial ends of itself: stopped by a person, or failed.
        """
        scheduler = self.make_scheduler()
        scheduler.setup(metric="loss", mode=mode, seed=seed)
        draw = random.Random(seed)
        game = _Game(scheduler, draw, self)
        for number in range(trials):
            game.trials[number] = FakeTrial(number, {"x": draw.random()}, length=draw.randint(1, 40))
        for _ in range(60 * trials):
            game.fill(places)
            running = [trial for trial in game.trials.values() if trial.status == "running"]
            if not running:
                break
            if draw.random() < ends:
                living = [trial for trial in game.trials.values() if trial.status != "over"]
                game.end(draw.choice(living), draw.choice(["stopped", "failed"]))
            else:
                game.report(draw.choice(running))
        return game.story

    @pytest.mark.parametrize("mode", ["min", "max"])
    @pytest.mark.parametrize("seed", range(8))
    def test_verdicts_keep_the_rules(self, seed: int, mode: str) -> None:
        """Reasons are given, milestones lie ahead, and only living trials are named."""
        assert self.play(seed, mode=mode)

    @pytest.mark.parametrize("seed", range(8))
    def test_trials_may_end_at_any_moment(self, seed: int) -> None:
        """Trials that wait, run or are paused are stopped by persons and fail."""
        assert self.play(seed, ends=0.2)

    def test_nothing_to_choose(self) -> None:
        """Without candidates none is chosen."""
        scheduler = self.make_scheduler()
        scheduler.setup(metric="loss", mode="min", seed=0)
        assert scheduler.choose(FakeCandidates({})) is None

    def test_a_trial_that_fits_is_started(self) -> None:
        """With a place free, nothing running and trials waiting, one of them starts."""
        scheduler = self.make_scheduler()
        scheduler.setup(metric="loss", mode="min", seed=0)
        candidates = FakeCandidates({n: FakeTrial(n, {}) for n in range(3)}, unfit={0})
        assert scheduler.choose(candidates) in (1, 2)

    @pytest.mark.parametrize("seed", range(4))
    def test_the_fold_rebuilds_it(self, seed: int) -> None:
        """The same calls give the same verdicts, on a new object and on one that is set up again."""
        assert self.play(seed, ends=0.1) == self.play(seed, ends=0.1)

    def test_setup_starts_from_nothing(self) -> None:
        """After `setup`, an object that has been used is as good as new."""
        used, new = self.make_scheduler(), self.make_scheduler()
        used.setup(metric="loss", mode="min", seed=3)
        game = _Game(used, random.Random(0), self)
        game.trials = {n: FakeTrial(n, {"x": 0.5}) for n in range(6)}
        for _ in range(40):
            game.fill(2)
            running = [trial for trial in game.trials.values() if trial.status == "running"]
            if running:
                game.report(running[0])
        for scheduler in (used, new):
            scheduler.setup(metric="loss", mode="max", seed=4)
        assert json.dumps(used.describe(), sort_keys=True) == json.dumps(new.describe(), sort_keys=True)

    def test_describe_is_json(self) -> None:
        """`describe` gives plain values, at the start as well."""
        scheduler = self.make_scheduler()
        scheduler.setup(metric="loss", mode="min", seed=0)
        json.dumps(scheduler.describe())


@dataclass
class _Game:
    """Plays the engine's part."""

    scheduler: Scheduler
    draw: random.Random
    contract: SchedulerContract
    trials: dict[int, FakeTrial] = field(default_factory=dict)
    story: Story = field(default_factory=list)

    def fill(self, places: int) -> None:
        """Give out free places."""
        while sum(trial.status == "running" for trial in self.trials.values()) < places:
            unfit = {n for n in self.trials if self.draw.random() < 0.1}
            number = self.scheduler.choose(FakeCandidates(self.trials, unfit))
            self.story.append(("choose", number))
            if number is None:
                return
            trial = self.trials[number]
            assert trial.status in ("waiting", "paused"), f"chose trial {number}, which is {trial.status}"
            assert number not in unfit, f"chose trial {number}, which does not fit"
            until, save = self.scheduler.until(trial)
            self.story.append(("until", number, until, save))
            self._ahead(trial, until)
            trial.status, trial.until = "running", until

    def report(self, trial: FakeTrial) -> None:
        """Have a running trial report once, and carry the verdict out."""
        step = trial.last.step + 1 if trial.last else 1
        trial.last = Report(step, self.contract.metrics(self.scheduler, step, self.draw), float(step))
        verdict = self.scheduler.on_report(trial, trial.last)
        self.story.append(("report", trial.number, verdict))
        waits = trial.until is not None and self._reached(trial) >= trial.until
        if verdict is not None:
            assert waits, f"a verdict on trial {trial.number} between its milestones"
            self._check(trial, verdict)
            self._carry_out(trial, verdict)
        elif waits:
            trial.until, _ = self.scheduler.until(trial)
            self._ahead(trial, trial.until)
        if trial.status == "running" and step >= trial.length:
            self.end(trial, "completed")
        json.dumps(self.scheduler.describe())

    def end(self, trial: FakeTrial, status: str) -> None:
        """End a trial."""
        trial.status = "over"
        self.scheduler.on_end(trial, status)
        self.story.append(("end", trial.number, status))

    def _carry_out(self, trial: FakeTrial, verdict: Verdict) -> None:
        match verdict:
            case Continue():
                trial.until = verdict.until
            case Clone():
                trial.until, trial.config = verdict.until, verdict.config
            case Pause():
                trial.status = "paused"
            case Stop():
                self.end(trial, "completed" if verdict.completed else "stopped")

    def _check(self, trial: FakeTrial, verdict: Verdict) -> None:
        assert isinstance(verdict, (Continue, Pause, Stop, Clone)), f"{verdict!r} is no verdict"
        assert verdict.reason, f"{verdict} has no reason"
        if isinstance(verdict, (Continue, Clone)):
            self._ahead(trial, verdict.until)
        if isinstance(verdict, Clone):
            assert verdict.source in self.trials, f"clones trial {verdict.source}, which does not exist"
            assert verdict.source != trial.number, f"trial {trial.number} clones itself"
            assert self.trials[verdict.source].status != "over", f"clones trial {verdict.source}, which has ended"

    def _ahead(self, trial: FakeTrial, until: float | None) -> None:
        reached = self._reached(trial)
        assert until is None or until > reached, f"milestone {until} of trial {trial.number}, which is at {reached}"

    def _reached(self, trial: FakeTrial) -> float:
        value = trial.last.value(self.scheduler.resource) if trial.last else None
        return float(value or 0)
