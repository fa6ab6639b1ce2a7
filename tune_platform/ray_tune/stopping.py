"""Ray Tune's stoppers: a function or an object that sees each result and says whether its trial, or all, should end.

Told as a scheduler around another one, so that what ends a trial is in the log, and a resumed search tells its stopper
the whole history again. The worker waits for the answer after each report.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, Scheduler, TrialView, decisions_of
from tune_platform.protocol.verdicts import Continue, Decision, Decisions, Stop
from tune_platform.ray_tune.session import trial_id
from tune_platform.space import Space


class Stopping:
    """The scheduler `inner`, with `stopper(trial_id, result) -> bool` before it; `stopper.stop_all()` ends everything.

    `result` is the report's metrics with `training_iteration`, `trial_id` and `config`.
    """

    def __init__(self, inner: Scheduler, stopper: Callable[[str, Mapping[str, Any]], bool]) -> None:
        self.inner, self.stopper = inner, stopper
        self._unused: Any = _copy(stopper)
        self._asked = False
        self.resource = inner.resource
        self.needs_checkpoints = bool(getattr(inner, "needs_checkpoints", False))
        self._name = getattr(stopper, "__name__", type(stopper).__name__)
        self._live: set[int] = set()

    def prepare(self, space: Space, metrics: Sequence[str], modes: Sequence[str]) -> None:
        """Pass on."""
        if (prepare := getattr(self.inner, "prepare", None)) is not None:
            prepare(space, metrics, modes)

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Pass on, and begin with a stopper that has seen nothing."""
        if self._asked:
            self.stopper, self._asked = _copy(self._unused), False
        self._live = set()
        self.inner.setup(metric=metric, mode=mode, seed=seed)

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the next report, or the inner milestone where that is the next."""
        until, save = self.inner.until(trial)
        following = self._following(trial.last)
        return (until, save) if until is not None and until <= following else (following, False)

    def choose(self, candidates: Candidates) -> int | None:
        """Pass on."""
        return self.inner.choose(candidates)

    def on_add(self, trial: TrialView) -> Decisions:
        """Pass on; where all are to end, this one too."""
        self._live.add(trial.number)
        answer = decisions_of(self.inner, self.inner.on_add(trial), trial.number)
        return [*answer, *self._all()]

    def on_start(self, trial: TrialView) -> None:
        """Pass on."""
        self.inner.on_start(trial)

    def on_report(self, trial: TrialView, report: Report) -> Decisions:
        """Ask the stopper, then the scheduler, whose milestones come no later than the next report."""
        number = trial.number
        result = {
            "training_iteration": report.step, "trial_id": trial_id(number), "config": dict(trial.config),
            "done": False, **report.metrics,
        }  # fmt: skip
        self._asked = True
        ends = self.stopper(trial_id(number), result)
        answer = decisions_of(self.inner, self.inner.on_report(trial, report), number)
        if ends:
            stopped = Decision(number, Stop(reason=f"the stopper {self._name} ended it", completed=True))
            answer = [*(one for one in answer if one.trial != number), stopped]
        return [*(self._sooner(one, number, report) for one in answer), *self._all()]

    def on_end(self, trial: TrialView, status: str) -> Decisions:
        """Pass on."""
        self._live.discard(trial.number)
        return self.inner.on_end(trial, status)

    def on_supply_end(self) -> Decisions:
        """Pass on."""
        return self.inner.on_supply_end()

    def describe(self) -> Mapping[str, Any]:
        """Return what the inner scheduler says."""
        return self.inner.describe()

    def _following(self, last: Report | None) -> float:
        if self.resource == "step":
            return 1.0 + (last.step if last is not None else 0)
        value = last.value(self.resource) if last is not None else None
        return math.nextafter(float(value) if isinstance(value, (int, float)) else 0.0, math.inf)

    def _sooner(self, decision: Decision, number: int, report: Report) -> Decision:
        verdict, following = decision.verdict, self._following(report)
        if decision.trial != number or not isinstance(verdict, Continue):
            return decision
        if verdict.until is not None and verdict.until <= following:
            return decision
        return Decision(number, replace(verdict, until=following, save=False))

    def _all(self) -> list[Decision]:
        stop_all = getattr(self.stopper, "stop_all", None)
        if stop_all is None or not stop_all():
            return []
        verdict = Stop(reason=f"the stopper {self._name} ended all", completed=True)
        return [Decision(number, verdict) for number in sorted(self._live)]


class Diverged:
    """Ends a trial once a metric that is to be small has reached a limit."""

    def __init__(self, metric: str, limit: float) -> None:
        self.metric, self.limit = metric, limit

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether it has."""
        return bool(result.get(self.metric, -math.inf) >= self.limit)


def _copy(stopper: Any) -> Any:
    try:
        return copy.deepcopy(stopper)
    except Exception:  # one that holds a lock or a file is used as it is
        return stopper
