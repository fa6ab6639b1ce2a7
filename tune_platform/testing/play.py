"""Plays of the engine itself, with a made-up cluster, against a scheduler that is held to the rules of the protocol.

`Play` invents facts, at random and at any moment: reports, ends, failures, what persons ask for, drivers that restart,
nodes that come and go. What follows from them the engine decides with the scheduler, so that there is no second
account of what a scheduler's decisions mean. `Referee` stands between the two and looks at every answer.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tune_platform.engine.controller import Controller
from tune_platform.engine.settings import Settings
from tune_platform.engine.trial import Trial, TrialStatus
from tune_platform.protocol.effects import Effect
from tune_platform.protocol.events import (
    CapacityChanged,
    Event,
    Failed,
    Reported,
    Requested,
    Resumed,
    Saved,
    Started,
    Suggested,
    Ticked,
)
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.protocol.scheduler import Candidates, Scheduler, TrialView, decisions_of
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Decisions, Pause, Stop, Verdict
from tune_platform.resources import Resources

#: A fact, the seconds of searching until then, and what was decided on it.
Fact = tuple[Event, float, tuple[Effect, ...]]
T = TypeVar("T")

_RETRIES = {"exception": 1, "worker_died": 2, "lost_checkpoint": 1}
_CAUSES = ("exception", "worker_died", "bad_metric", "lost_checkpoint")


def memory(scheduler: Any) -> str:
    """Return all that a scheduler shows of what it knows, as JSON: `describe`, and `state` where it has that."""
    known = scheduler.state() if hasattr(scheduler, "state") else None
    return json.dumps([scheduler.describe(), known], sort_keys=True)


class Referee:
    """A scheduler that passes everything on to another one, and holds its answers against the protocol.

    A broken rule is an AssertionError.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.resource = scheduler.resource
        self._reached: dict[int, float] = {}
        self._living: set[int] = set()

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Begin; nothing is known of any trial."""
        self.scheduler.setup(metric=metric, mode=mode, seed=seed)
        self._reached.clear()
        self._living.clear()

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Ask for a milestone: it lies ahead, and asking changes nothing."""
        name = f"until(trial {trial.number})"
        answer = self._question(name, lambda: self.scheduler.until(trial))
        assert isinstance(answer, tuple), f"{name} answers (milestone, save), not {answer!r}"
        self._check_ahead(name, trial.number, answer[0])
        return answer[0], bool(answer[1])

    def choose(self, candidates: Candidates) -> int | None:
        """Ask for the next: it is a candidate, and asking changes nothing."""
        number = self._question("choose()", lambda: self.scheduler.choose(candidates))
        if number is not None:
            known = candidates.paused(number) or any(trial.number == number for trial in candidates.waiting())
            assert known, f"choose() answers trial {number}, which is not among the candidates"
        return number

    def on_add(self, trial: TrialView) -> Decisions:
        """Tell of a new trial."""
        assert trial.number not in self._living, f"trial {trial.number} is added twice"
        self._living.add(trial.number)
        return self._decisions("on_add", self.scheduler.on_add(trial), trial)

    def on_start(self, trial: TrialView) -> None:
        """Tell of a start; there is no answer."""
        answer: object = self.scheduler.on_start(trial)  # type: ignore[func-returns-value]
        assert answer is None, f"on_start decides nothing, but answered {answer!r}"

    def on_report(self, trial: TrialView, report: Report) -> Decisions:
        """Tell of a report."""
        self._reached[trial.number] = float(report.value(self.resource))
        return self._decisions("on_report", self.scheduler.on_report(trial, report), trial)

    def on_end(self, trial: TrialView, status: str) -> Decisions:
        """Tell of an end."""
        self._living.discard(trial.number)
        return self._decisions("on_end", self.scheduler.on_end(trial, status), trial)

    def on_supply_end(self) -> Decisions:
        """Tell that nothing more comes."""
        return self._decisions("on_supply_end", self.scheduler.on_supply_end(), None)

    def describe(self) -> Mapping[str, Any]:
        """Pass the question on."""
        return self.scheduler.describe()

    def _question(self, name: str, ask: Callable[[], T]) -> T:
        before = memory(self.scheduler)
        answer, again = ask(), ask()
        assert answer == again, f"{name} is a question, but answers {answer!r} first and then {again!r}"
        after = memory(self.scheduler)
        assert before == after, f"{name} is a question, but has changed the scheduler:\n{before}\n{after}"
        return answer

    def _decisions(self, name: str, answer: Decisions, trial: TrialView | None) -> Decisions:
        memory(self.scheduler)  # it can be shown at any time
        for decision in decisions_of(self.scheduler, answer, trial.number if trial else None):
            self._check(f"{name} decides {decision.verdict} on trial {decision.trial}", decision)
            if trial is not None and decision.trial == trial.number:
                self._check_own(name, trial, decision)
        return answer

    def _check(self, name: str, decision: Decision) -> None:
        verdict = decision.verdict
        assert verdict.reason, f"{name}: it has no reason"
        if isinstance(verdict, Continue):
            self._check_ahead(name, decision.trial, verdict.until)
        if isinstance(verdict, Clone):
            assert verdict.source in self._living, f"{name}: the source does not exist, or has ended"
            if self.resource == "step":
                self._check_ahead(name, decision.trial, verdict.until)

    def _check_own(self, name: str, trial: TrialView, decision: Decision) -> None:
        """A milestone that is set between two milestones is never met."""
        if name == "on_report" and isinstance(decision.verdict, Continue) and isinstance(trial, Trial):
            meant = trial.until is not None and self._reached[trial.number] >= trial.until
            assert meant or self.told_otherwise, (
                f"{name} answers {decision.verdict} between the milestones of trial {trial.number}, where it changes "
                "nothing: answer None there"
            )

    #: Whether it was told a history that others have decided: milestones need not be its own then.
    told_otherwise = False

    def _check_ahead(self, name: str, number: int, until: float | None) -> None:
        reached = self._reached.get(number)
        assert until is None or reached is None or until > reached, f"{name}: milestone {until}, but it is at {reached}"


class Lot:
    """Decides by lot: its log is that of some other scheduler, or of the same one before its code was changed."""

    def __init__(self, resource: str, seed: int) -> None:
        self.resource = resource
        self._seed = seed
        self._told = 0
        self._living: dict[int, None] = {}

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Nothing to take."""

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Some milestone that is ahead."""
        reached, draw = float(trial.last.value(self.resource)) if trial.last else 0.0, self._draw(trial.number)
        return draw.choice([None, reached + 0.5, reached + 2, reached + 7]), draw.random() < 0.7

    def choose(self, candidates: Candidates) -> int | None:
        """Any candidate."""
        found = [trial.number for trial in candidates.waiting()]
        found += [number for number in self._living if candidates.paused(number) is not None]
        return self._draw("choose").choice(found) if found else None

    def on_add(self, trial: TrialView) -> None:
        """Remember that there is such a trial."""
        self._living[trial.number] = None

    def on_start(self, trial: TrialView) -> None:
        """Have the lots fall otherwise from here on."""
        self._told += 1

    def on_report(self, trial: TrialView, report: Report) -> Decisions:
        """Pause it, stop it, let it go on or make it a clone; or pause, send on or stop any other."""
        self._told += 1
        until, save = self.until(trial)
        draw = self._draw("report")
        other = draw.choice(list(self._living))
        verdicts: list[Verdict] = [Pause(reason="by lot"), Stop(reason="by lot")]
        match draw.randrange(12):
            case 0:
                return verdicts[0]
            case 1:
                return Continue(until=until, save=save, reason="by lot")
            case 2:
                return [Decision(other, draw.choice(verdicts))]
            case 3:
                return [Decision(other, Continue(until=None, reason="by lot"))]
            case 4 if other != trial.number:
                return Clone(source=other, config=trial.config, until=until, reason="by lot")
        return None

    def on_end(self, trial: TrialView, status: str) -> None:
        """Forget it."""
        self._living.pop(trial.number, None)

    def on_supply_end(self) -> None:
        """Nothing to do."""

    def describe(self) -> Mapping[str, Any]:
        """Nothing to tell."""
        return {}

    def _draw(self, what: Any) -> random.Random:
        return random.Random(f"{self._seed} {self._told} {what}")


@dataclass(frozen=True, kw_only=True)
class World:
    """What a play is a function of, besides the scheduler.

    `metrics(step, draw)`: what a trial reports. `trouble`: the share of moves that are somebody's or something's
    intervention: failures, persons, restarts, nodes that come and go.
    """

    metrics: Callable[[int, random.Random], Mapping[str, Any]]
    seed: int = 0
    mode: str = "min"
    trials: int = 20
    places: int = 4
    trouble: float = 0.0

    def length(self, number: int) -> int:
        """Return after how many reports a trial's own code ends."""
        return random.Random(f"{self.seed} {number}").randint(1, 40)


class Play:
    """One experiment, move by move; `past` is its log."""

    def __init__(self, scheduler: Scheduler, world: World) -> None:
        self.world = world
        self.referee = Referee(scheduler)
        settings = Settings(
            metrics=("loss",), modes=(world.mode,), num_samples=world.trials, lookahead=0, retries=_RETRIES,
            keep_last=2, seed=world.seed, node_patience=world.seed % 2 * 50.0,
        )  # fmt: skip
        self.controller = Controller(settings, self.referee)
        self.state = self.controller.state
        self.past: list[Fact] = []
        self._draw = random.Random(world.seed)
        self._ahead = 0.0  # seconds that have passed in which nothing happened

    def retell(self, past: Sequence[Fact]) -> None:
        """Go on from a log; `difference` then says where the scheduler would have decided otherwise."""
        self.referee.told_otherwise = True
        for event, elapsed, effects in past:
            self.controller.replay(event, elapsed, effects)
        self.past.extend(past)
        self._ahead = past[-1][0].time - len(past) + 1 if past else 0.0
        self.referee.told_otherwise = bool(self.difference)

    @property
    def difference(self) -> str:
        """Where the scheduler would have decided otherwise than the log that it was told; empty where nowhere."""
        return self.controller.comparison.difference

    def go(self, moves: int | None = None) -> None:
        """Make so many moves, or all to the end; then a person extends the search, and it goes on to its second end."""
        if not self.past:
            self._capacity(self.world.places)
        extended = False
        for _ in range(moves if moves is not None else 400 * self.world.trials):
            finished = self.state.finished
            if finished is None:
                self._move()
                continue
            assert finished.status == "finished" or not self.state.first.good, finished.reason
            left = [n for n, trial in self.state.trials.items() if not trial.status.final]
            assert not left, f"the experiment is finished, but trials {left} are not: {finished.reason}"
            if extended:
                return
            extended = True
            self._request("extend", None, {"trials": 3})
        assert moves is not None, f"no end in sight: {dict(self.state.counts)}"

    def feed(self, event: Event) -> None:
        """Have the engine hear of a fact."""
        assert self.controller.accepts(event), f"not accepted: {event}"
        self.controller.handle(event)
        self.past.append((event, event.time, tuple(self.controller.effects)))

    # ------------------------------------------------------------------------------- moves

    def _move(self) -> None:
        draw, state = self._draw, self.state
        if draw.random() < self.world.trouble:
            self._trouble()
            return
        active = list(state.placed)
        if state.supply.asked and (not active or draw.random() < 0.5):
            self._suggest(next(iter(state.supply.asked)))
        elif active:
            self._train(state.trials[draw.choice(active)])
        elif (due := self.controller.deadline()) < math.inf:  # all wait for a node that was lost: it comes, or does not
            if draw.random() < 0.5:
                self._capacity(self.world.places)
            else:
                self._ahead += max(0.0, due - self._time())
                self.feed(Ticked(time=self._time()))
        else:
            held = [number for number, trial in state.trials.items() if trial.held]
            assert held, "nothing runs and nothing will happen, but the experiment is not over"
            self._request("unpause", draw.choice(held))

    def _suggest(self, number: int, origin: str = "searcher") -> None:
        resources = Resources(cpu=self._draw.choice([1.0] * 9 + [2.0]))
        config = {"x": round(self._draw.random(), 2)}
        self.feed(Suggested(time=self._time(), trial=number, config=config, origin=origin, resources=resources))

    def _train(self, trial: Trial) -> None:
        ends = trial.status is TrialStatus.PAUSING and (trial.waits or self._draw.random() < 0.7)
        if trial.saving and trial.waits:  # the checkpoint of its milestone is written: it comes alone, or as an answer
            self._written(trial, answers=ends and self._draw.random() < 0.5)
        elif ends:
            ref = self._ref(trial, trial.step) if self._draw.random() < 0.9 else None
            self.feed(Saved(time=self._time(), trial=trial.number, attempt=trial.attempt, checkpoint=ref))
        elif trial.status is TrialStatus.STARTING and self._draw.random() < 0.5:
            self.feed(Started(time=self._time(), trial=trial.number, attempt=trial.attempt))
        else:
            self._report(trial)

    def _written(self, trial: Trial, *, answers: bool) -> None:
        time, ref = self._time(), self._ref(trial, trial.step)
        if answers:
            self.feed(Saved(time=time, trial=trial.number, attempt=trial.attempt, checkpoint=ref))
        else:
            self.feed(Reported(time=time, trial=trial.number, attempt=trial.attempt, reports=(), saved=(ref,)))

    def _report(self, trial: Trial) -> None:
        reports: list[Report] = []
        step, done, halts = trial.step, False, False
        for _ in range(self._draw.randint(1, 3)):
            if step >= self.world.length(trial.number):
                done = True
            if done or halts:
                break
            step += 1
            reports.append(Report(step, self.world.metrics(step, self._draw), float(step)))
            halts = trial.until is not None and float(reports[-1].value(self.referee.resource)) >= trial.until
        saves = trial.save if halts else self._draw.random() < 0.1
        saving = bool(saves and reports and not done and self._draw.random() < 0.3)
        saved = (self._ref(trial, step),) if saves and reports and not saving else ()
        held = (self._ref(trial, step),) if saving and self._draw.random() < 0.5 else ()
        self.feed(
            Reported(
                time=self._time(), trial=trial.number, attempt=trial.attempt, reports=tuple(reports), saved=saved,
                done=done, saving=saving, held=held,
            )
        )  # fmt: skip

    def _trouble(self) -> None:
        draw, state = self._draw, self.state
        living = [number for number, trial in state.trials.items() if not trial.status.final]
        match draw.randrange(10):
            case 0 | 1 | 2 if state.placed:
                trial = state.trials[draw.choice(list(state.placed))]
                cause = draw.choice(_CAUSES)
                time, number, attempt = self._time(), trial.number, trial.attempt
                self.feed(Failed(time=time, trial=number, attempt=attempt, cause=cause, message="bad luck"))
            case 3 if living:
                self._request("stop", draw.choice(living))
            case 4 | 5 if living:
                self._request("pause", draw.choice(living))
            case 6 if living:
                self._request("unpause", draw.choice(living))
            case 7:
                number = state.supply.next_number
                self._request("enqueue", None)
                self._suggest(number, "user")
            case 8:
                self._capacity(draw.randint(1, self.world.places))
            case 9 if draw.random() < 0.3:
                self.feed(Resumed(time=self._time(), retry_failed=draw.random() < 0.5))
                self._capacity(self.world.places)

    def _request(self, action: str, trial: int | None, data: Mapping[str, Any] | None = None) -> None:
        request = self.state.last_request + 1
        self.feed(Requested(time=self._time(), request=request, action=action, trial=trial, data=data or {}))

    def _capacity(self, places: int) -> None:
        self.feed(CapacityChanged(time=self._time(), nodes=({"cpu": float(places)},)))

    def _ref(self, trial: Trial, step: int) -> CheckpointRef:
        return CheckpointRef(trial.number, step, f"played://{trial.number}/{step}/{trial.attempt}")

    def _time(self) -> float:
        return len(self.past) + self._ahead
