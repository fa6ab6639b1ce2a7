"""What a listener may see of a run: read-only, so that nothing that looks can change what it looks at."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from tune_platform.engine.controller import Controller
from tune_platform.engine.settings import Settings
from tune_platform.engine.state import Best
from tune_platform.engine.trial import Trial
from tune_platform.protocol.commands import Finish
from tune_platform.protocol.effects import Decided, Effect
from tune_platform.protocol.events import Event, Reported, Suggested
from tune_platform.protocol.reports import Report
from tune_platform.protocol.verdicts import Clone
from tune_platform.resources import Resources

#: Types whose values need no copy.
_FIXED = frozenset((int, float, str, bool, type(None)))


class TrialLook:
    """A trial as it is at the moment."""

    __slots__ = ("_trial",)

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    @property
    def number(self) -> int:
        """0, 1, 2, ... in the order of suggestion."""
        return self._trial.number

    @property
    def config(self) -> Mapping[str, Any]:
        """Its present config: a copy."""
        return _copied(self._trial.config)

    def config_at(self, step: int) -> Mapping[str, Any]:
        """Return the config that report `step` was made with: a clone, which may have come since, changes it."""
        before = (config for last, config in self._trial.configs if step <= last)
        return _copied(next(before, self._trial.config))

    @property
    def status(self) -> str:
        """Where it stands: PENDING, STARTING, RUNNING, ..."""
        return self._trial.status.value

    @property
    def reason(self) -> str:
        """Why it stands there."""
        return self._trial.reason

    @property
    def attempt(self) -> int:
        """How often it was launched."""
        return self._trial.attempt

    @property
    def started(self) -> float | None:
        """When its code began for the first time, in seconds since the epoch; None before."""
        return self._trial.started

    @property
    def step(self) -> int:
        """Number of its last committed report; 0 before the first."""
        return self._trial.step

    @property
    def last(self) -> Report | None:
        """Its last committed report."""
        return _read_only(self._trial.last) if self._trial.last else None

    @property
    def best(self) -> float | None:
        """The best value of the (first) metric that it has reported."""
        return self._trial.best

    @property
    def error(self) -> str:
        """The traceback or message of its last failure; empty where it never failed."""
        return self._trial.error

    @property
    def origin(self) -> str:
        """Who suggested it: searcher, start (a start point) or user."""
        return self._trial.origin

    @property
    def resources(self) -> Resources:
        """What it holds while it runs."""
        return self._trial.resources

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self._trial.status.final

    @property
    def placed(self) -> bool:
        """Whether it holds a place."""
        return self._trial.status.placed


class RunView:
    """A run as it is at the moment: what listeners and callbacks get."""

    __slots__ = ("_controller", "_name")

    def __init__(self, controller: Controller, name: str = "") -> None:
        self._controller, self._name = controller, name

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._name

    @property
    def settings(self) -> Settings:
        """What the engine knows of the spec."""
        return self._controller.settings

    @property
    def counts(self) -> dict[str, int]:
        """How many trials are in each state; those without are left out."""
        return {status.value: count for status, count in self._controller.state.counts.items() if count}

    @property
    def best(self) -> Best | None:
        """The best value that any trial has reported; it is another object once there is a better one."""
        return self._controller.state.best

    @property
    def elapsed(self) -> float:
        """Seconds of searching, over all drivers, without those that the machine slept."""
        return self._controller.state.elapsed

    @property
    def expected_trials(self) -> float:
        """How many trials there will be in all, with those that persons added; infinite where nothing limits them."""
        supply = self._controller.state.supply
        return supply.next_number if supply.over else supply.limit

    @property
    def time_budget(self) -> float:
        """Seconds of searching after which it ends, with those that persons added; infinite without a budget."""
        return self._controller.settings.time_budget + self._controller.state.extra_time

    @property
    def budget_left(self) -> float:
        """Seconds until the deadline, or until GPU hours or cost are used up at the present rate; infinite: never."""
        state = self._controller.state
        return state.spending.left(state.now)[0] if state.spending.limited else math.inf

    @property
    def finished(self) -> Finish | None:
        """How the run ended, once it has."""
        return self._controller.finished

    def trial(self, number: int) -> TrialLook | None:
        """Return a trial that lives, or that has ended in this turn; else None."""
        trial = self._controller.state.trials.get(number)
        return TrialLook(trial) if trial is not None else None

    def describe_scheduler(self) -> Mapping[str, Any]:
        """Return the scheduler's own description of its state, as plain JSON values."""
        return self._controller.scheduler.describe()


def shown_events(events: Sequence[Event]) -> list[Event]:
    """Return facts as listeners may see them: what they hold of the run itself is copied or read-only."""
    return [_shown_event(event) if isinstance(event, (Reported, Suggested)) else event for event in events]


def shown_effects(effects: Sequence[Effect]) -> list[Effect]:
    """Return effects as listeners may see them."""
    return [_shown_clone(effect) if isinstance(effect, Decided) else effect for effect in effects]


def _shown_event(event: Reported | Suggested) -> Event:
    if isinstance(event, Reported):
        return replace(event, reports=tuple(map(_read_only, event.reports)))
    return replace(event, config=_copied(event.config), memo=copy.deepcopy(event.memo))


def _shown_clone(effect: Decided) -> Effect:
    verdict = effect.verdict
    if not isinstance(verdict, Clone):
        return effect
    return replace(effect, verdict=replace(verdict, config=_copied(verdict.config)))


def _copied(config: Mapping[str, Any]) -> Mapping[str, Any]:
    own = dict(config)  # mostly of values that nobody can change: then that is all, and much faster
    return MappingProxyType(own if _FIXED.issuperset(map(type, own.values())) else copy.deepcopy(own))


def _read_only(report: Report) -> Report:
    return Report(report.step, MappingProxyType(dict(report.metrics)), report.time)
