"""Plays facts to a controller by hand, and a scheduler that says what it is told to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support import CheckedController
from tune_platform.engine.settings import Settings
from tune_platform.engine.trial import Trial, TrialStatus
from tune_platform.protocol.commands import Command, Finish
from tune_platform.protocol.effects import Decided, Effect
from tune_platform.protocol.events import (
    CapacityChanged,
    Event,
    Failed,
    Reported,
    Requested,
    Saved,
    Started,
    Suggested,
)
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.protocol.scheduler import TrialView
from tune_platform.protocol.verdicts import Decisions
from tune_platform.resources import Resources
from tune_platform.schedulers import FIFO


class Play:
    """Feeds a controller and gives its answers: commands are returned, `effects` are those of the last fact."""

    def __init__(self, scheduler: Any = None, *, nodes: Any = ({"cpu": 2.0},), **options: Any) -> None:
        settings = Settings(metrics=("loss",), modes=("min",), **{"num_samples": 8, **options})
        self.controller = CheckedController(settings, scheduler or FIFO())
        self.state = self.controller.state
        self.time, self.requests = 0.0, 0
        self.past: list[tuple[Event, float, tuple[Effect, ...]]] = []  # the log
        self.first = self.do(CapacityChanged(time=0.0, nodes=nodes))

    def do(self, event: Event, elapsed: float | None = None) -> list[Command]:
        assert self.controller.accepts(event), f"not accepted: {event}"
        commands = list(self.controller.handle(event, elapsed))
        self.past.append((event, event.time if elapsed is None else elapsed, tuple(self.effects)))
        return commands

    @property
    def effects(self) -> list[Effect]:
        return self.controller.effects

    @property
    def asked(self) -> list[int]:
        return list(self.state.supply.asked)

    def suggest(
        self, number: int, *, needs: Resources | None = None, problem: str = "", **config: Any
    ) -> list[Command]:
        fact = Suggested(time=self.time, trial=number, config=config, resources=needs, problem=problem)
        return self.do(fact)

    def start(self, number: int) -> list[Command]:
        return self.do(Started(time=self.time, trial=number, attempt=self.trial(number).attempt, worker=f"w{number}"))

    def report(
        self,
        number: int,
        *losses: Any,
        saved: bool = False,
        saving: bool = False,
        done: bool = False,
        held: bool = False,
    ) -> list[Command]:
        """The trial reports some losses, has `saved` at the last of them, or is `saving` still, behind its training."""
        trial = self.trial(number)
        reports = tuple(Report(trial.step + n, {"loss": v}, 0.0) for n, v in enumerate(losses, start=1))
        step = trial.step + len(losses)
        ref = CheckpointRef(number, step, f"{number}/{step}/{trial.attempt}")
        return self.do(
            Reported(
                time=self.time,
                trial=number,
                attempt=trial.attempt,
                reports=reports,
                saved=(ref,) if saved else (),
                saving=saving,
                held=(ref,) if held else (),
                done=done,
            )
        )

    def saved(self, number: int) -> list[Command]:
        trial = self.trial(number)
        ref = CheckpointRef(number, trial.step, f"{number}/{trial.step}/{trial.attempt}/asked")
        return self.do(Saved(time=self.time, trial=number, attempt=trial.attempt, checkpoint=ref))

    def fail(self, number: int, cause: str = "exception", *, fatal: bool = False) -> list[Command]:
        attempt = self.trial(number).attempt
        return self.do(Failed(time=self.time, trial=number, attempt=attempt, cause=cause, message="bang", fatal=fatal))

    def ask_for(self, action: str, trial: int | None = None, **data: Any) -> list[Command]:
        self.requests += 1
        return self.do(Requested(time=self.time, request=self.requests, action=action, trial=trial, data=data))

    def verdicts(self) -> list[tuple[int, str, str]]:
        """Trial, kind and reason of each verdict that followed from the last fact."""
        found = [effect for effect in self.effects if isinstance(effect, Decided)]
        return [(effect.trial, type(effect.verdict).__name__, effect.verdict.reason) for effect in found]

    def finished(self) -> Finish | None:
        return self.controller.finished

    def trial(self, number: int) -> Trial:
        return self.state.trials[number]

    def status(self, number: int) -> TrialStatus:
        return self.trial(number).status

    def standing(self) -> dict[int, str]:
        """The status of each trial that is in memory."""
        return {number: trial.status.value for number, trial in self.state.trials.items()}


def only(commands: list[Command], kind: Any) -> list[Any]:
    return [command for command in commands if isinstance(command, kind)]


class Scripted(FIFO):
    """Says what it is told to say (`t0s1` is its answer to trial 0's report 1), at milestones of one step."""

    def __init__(self, **answers: Decisions) -> None:
        self.answers: Mapping[str, Decisions] = answers
        self.heard: list[tuple[str, int]] = []

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        return (trial.last.step if trial.last else 0) + 1, False

    def on_add(self, trial: TrialView) -> Any:
        self.heard.append(("add", trial.number))
        return self.answers.get(f"add{trial.number}")

    def on_start(self, trial: TrialView) -> None:
        self.heard.append(("start", trial.number))

    def on_report(self, trial: TrialView, report: Report) -> Any:
        self.heard.append((f"report {report.step}", trial.number))
        return self.answers.get(f"t{trial.number}s{report.step}")

    def on_end(self, trial: TrialView, status: str) -> Any:
        self.heard.append((status, trial.number))
        return self.answers.get(f"end{trial.number}")

    def on_supply_end(self) -> Any:
        self.heard.append(("supply end", -1))
        return self.answers.get("supply_end")


RETRIES = {"exception": 1, "lost_checkpoint": 1}


def running(trials: int = 3, *, cpus: float = 4.0, **answers: Decisions) -> Play:
    """Some trials that run, and have not reported."""
    play = Play(Scripted(**answers), nodes=({"cpu": cpus},), num_samples=trials, retries=RETRIES)
    for number in range(trials):
        play.suggest(number, x=number)
        if number in play.state.placed:
            play.start(number)
    return play
