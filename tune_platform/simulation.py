"""`simulate`: what a search would find, how soon and at what cost, on a virtual clock over known learning curves.

The controller, the scheduler and the searcher are those of a real run; only the training is looked up.
"""

from __future__ import annotations

import copy
import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_platform.api import drive
from tune_platform.backends.simulated import Curve, Faults, SimulatedBackend
from tune_platform.claim import claim
from tune_platform.curves.table import CurveTable
from tune_platform.errors import SpecError, did_you_mean
from tune_platform.location import Location
from tune_platform.protocol.backend import Work
from tune_platform.protocol.commands import Launch, Release
from tune_platform.protocol.events import Event, Reported
from tune_platform.protocol.reports import finite
from tune_platform.protocol.seeds import derive
from tune_platform.resources import Resources

if TYPE_CHECKING:
    from tune_platform.spec import SearchSpec


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the simulated workers are like. Raises SpecError for what no workers are.

    `start_up`: seconds from a launch to the first step. `failures`: the probability of a step that its worker dies in
    it. `stragglers`: the share of configs whose steps take `slowdown` times as long. `price`: of a worker for an hour.
    """

    workers: int = 8
    start_up: float = 0.0
    failures: float = 0.0
    stragglers: float = 0.0
    slowdown: float = 4.0
    price: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SpecError(f"workers: got {self.workers}; at least 1 is wanted")
        for name in ("failures", "stragglers"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"{name}: got {getattr(self, name)}; a share between 0 and 1 is wanted")
        for name in ("start_up", "price"):
            if not getattr(self, name) >= 0:
                raise SpecError(f"{name}: got {getattr(self, name)}; must not be negative")
        if not self.slowdown > 0:
            raise SpecError(f"slowdown: got {self.slowdown}; must be above 0")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one simulated run came to; times are in simulated seconds from its start.

    `best` are (time, value) whenever the best value reported so far improved; `busy` are the seconds that workers were
    held by trials, over all workers; `ends` counts how trials ended, by status and reason with "#" for numbers.
    """

    name: str
    seed: int
    best: Sequence[tuple[float, float]]
    seconds: float
    busy: float
    trials: int
    steps: int
    cost: float
    ends: Mapping[str, int] = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """The best value of all; None where nothing was reported."""
        return self.best[-1][1] if self.best else None

    def at(self, time: float) -> float | None:
        """Return the best value that had been reported by a time; None where there was none."""
        return next((value for when, value in reversed(self.best) if when <= time), None)

    def reached(self, value: float, mode: str) -> float | None:
        """Return when the best value became as good as this; None where it did not."""
        sign = 1 if mode == "min" else -1
        return next((when for when, found in self.best if sign * found <= sign * value), None)


def simulate(
    spec: SearchSpec,
    curves: CurveTable | str | Path,
    *,
    seeds: int = 1,
    conditions: Conditions | None = None,
    between: str = "nearest",
) -> list[Outcome]:
    """Run a search `seeds` times over known curves, with seeds that count up from the spec's own.

    `curves` is a table, its file, or (see `curves.experiment.table_of`) what an experiment's trials did; a config that
    it does not have is answered with the nearest that it has, or with `between="surrogate"` by trees that are fitted to
    it (`CurveTable.lookup`). The spec's budgets count in simulated seconds, and its GPU hours and cost what the
    simulated trials hold of the spec's resources; its deadline is as far from the beginning as it is from now. Its
    concurrency, backend, callbacks and storage have no part in it.
    Raises SpecError where the curves do not fit the spec, and for a budget that cannot be simulated.
    """
    table = curves if isinstance(curves, CurveTable) else CurveTable.load(curves)
    if len(spec.metrics) > 1:
        raise SpecError(f"the spec has several objectives ({', '.join(spec.metrics)}); one is simulated at a time")
    if spec.metric not in table.values:
        hint = did_you_mean(spec.metrics[0], table.values)
        raise SpecError(f"{table.name} has no values of {spec.metric!r}{hint}; it has {', '.join(table.values)}")
    spec = spec.for_steps(table.steps)
    resource = spec.make_scheduler().resource
    if resource not in ("step", table.resource, *table.values):
        raise SpecError(f"the schedule counts in {resource!r}, and {table.name} in {table.resource!r} (or step)")
    budget = spec.budget
    ends = (budget.time, budget.target, budget.deadline, budget.gpu_hours, budget.cost)
    if spec.trials is None and all(each is None for each in ends):
        raise SpecError("the search has no end: give it a number of trials, or a budget of (simulated) time")
    if seeds < 1:
        raise SpecError(f"seeds: got {seeds}; at least 1 is wanted")
    curve, step_time = table.lookup(spec.space, between=between)
    wanted = conditions or Conditions()
    return [_run(spec, spec.seed + each, curve, step_time, wanted) for each in range(seeds)]


def _held(spec: SearchSpec) -> Resources:
    """Return what a simulated trial holds: of those that a budget counts what the spec's trials do, else one CPU."""
    if spec.budget.gpu_hours is None and spec.budget.cost is None:
        return Resources()
    given = spec.resources
    if not isinstance(given, Resources):
        raise SpecError(
            "the budget counts GPU hours or a cost, and the resources are a function of the config, which is not "
            "simulated: give resources that all trials hold, or leave these budgets out"
        )
    if spec.budget.gpu_hours is not None and not given.gpu:
        raise SpecError("budget gpu_hours: the trials hold no GPU, so that it would never end; see resources: {gpu: 1}")
    return Resources(cpu=given.cpu, gpu=given.gpu, workers=given.workers)


def _on_the_clock(deadline: str | None) -> str | None:
    """Return a deadline on a clock that begins at zero now. Raises SpecError for one that has passed."""
    if deadline is None:
        return None
    left = datetime.fromisoformat(deadline).timestamp() - time.time()
    if left <= 0:
        raise SpecError(f"budget deadline: {deadline} has passed; a simulated search begins now")
    return datetime.fromtimestamp(left, UTC).isoformat()


def _run(spec: SearchSpec, seed: int, curve: Curve, step_time: Any, conditions: Conditions) -> Outcome:
    held = _held(spec)
    backend = _Watched(curve, step_time, conditions, held, spec.metrics[0], spec.modes[0], seed)
    with tempfile.TemporaryDirectory(prefix="simulate-") as folder:
        mine = spec.model_copy(
            update={
                "searcher": copy.deepcopy(spec.searcher),
                "scheduler": copy.deepcopy(spec.scheduler),
                "seed": seed,
                "backend": backend,
                "storage": Location(folder),
                "max_concurrent": None,
                "resources": held,
                "callbacks": (),
                "budget": spec.budget.model_copy(update={"deadline": _on_the_clock(spec.budget.deadline)}),
            }
        )
        with closing(backend), claim(mine, name=spec.name or "simulated") as claimed:
            results = drive(claimed, mine, progress="off")
        trials = results.trials()
    return Outcome(
        name=spec.name or "simulated",
        seed=seed,
        best=backend.best,
        seconds=backend.last,
        busy=backend.busy,
        trials=len(trials),
        steps=backend.steps,
        cost=backend.busy / 3600 * conditions.price,
        ends=dict(Counter(_end(trial.status, trial.reason) for trial in trials).most_common()),
    )


def _end(status: str, reason: str) -> str:
    alike = re.sub(r"-?\d[\d.,]*(e[-+]?\d+)?", "#", reason)
    return f"{status}: {alike}" if alike else status


class _Watched(SimulatedBackend):
    """The simulated backend, with notes of what was reported when and how long workers were held."""

    def __init__(
        self, curve: Curve, step_time: Any, conditions: Conditions, held: Resources, metric: str, mode: str, seed: int
    ) -> None:  # fmt: skip
        def straggling(config: Mapping[str, Any], step: int) -> float:
            draw = derive(seed, "straggler", repr(config)) / 2.0**64
            return float(step_time(config, step)) * (conditions.slowdown if draw < conditions.stragglers else 1.0)

        super().__init__(
            curve,
            nodes=[
                {
                    name: amount * held.workers * conditions.workers
                    for name, amount in (("cpu", held.cpu), ("gpu", held.gpu))
                    if amount
                }
            ],
            step_time=straggling if conditions.stragglers else step_time,
            setup_time=conditions.start_up,
            faults=Faults(worker_died=conditions.failures) if conditions.failures else None,
            batch=1,  # so that a value is known when it is there
        )
        self.best: list[tuple[float, float]] = []
        self.busy = self.last = 0.0
        self.steps = 0
        self._metric, self._sign = metric, 1.0 if mode == "min" else -1.0
        self._since: dict[int, float] = {}

    def submit(self, work: Sequence[Work]) -> None:
        """Note who holds a worker from when to when."""
        for item in work:
            if isinstance(item, Launch):
                self._since[item.trial] = self.now()
            elif isinstance(item, Release):
                self.busy += self.now() - self._since.pop(item.trial, self.now())
        super().submit(work)

    def poll(self, timeout: float | None) -> list[Event]:
        """Note what was reported."""
        events = super().poll(timeout)
        for event in events:
            if not isinstance(event, Reported):
                continue
            self.last = max(self.last, event.time)
            for report in event.reports:
                self.steps += 1
                value = finite(report.metrics.get(self._metric))
                if value is not None and (not self.best or self._sign * value < self._sign * self.best[-1][1]):
                    self.best.append((report.time, value))
        return events

    def close(self) -> None:
        """Let go of who still holds a worker."""
        self.busy += sum(self.now() - since for since in self._since.values())
        self._since.clear()
        super().close()
