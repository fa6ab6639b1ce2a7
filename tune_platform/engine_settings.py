"""What the engine needs to know of a spec."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING

from tune_platform.engine.failures import FEWEST
from tune_platform.engine.settings import Settings
from tune_platform.engine.spending import Limits
from tune_platform.protocol.backend import Backend
from tune_platform.resources import Resources
from tune_platform.spec.parts import memory_factor, times_of

if TYPE_CHECKING:
    from tune_platform.spec import SearchSpec

#: Seconds without a change of the cluster after which a trial that could never fit fails: nodes may come up late.
MISFIT_AFTER = 30.0


def settings_of(spec: SearchSpec, lookahead: int | None, backend: Backend, *, follow: bool = False) -> Settings:
    """Return it; `lookahead` is the searcher's, which hears of rungs where it `follow`s them."""

    def bound(value: float | None) -> float:
        return math.inf if value is None else value

    return Settings(
        metrics=spec.metrics,
        modes=spec.modes,
        seed=spec.seed,
        num_samples=bound(spec.trials),
        max_concurrent=min(bound(spec.max_concurrent), getattr(backend, "at_a_time", math.inf)),
        prefetch=spec.prefetch,
        lookahead=lookahead,
        follow=follow,
        misfit_after=_misfit_after(spec, backend),
        node_patience=spec.node_patience,
        resources=spec.resources if isinstance(spec.resources, Resources) else Resources(),
        on_bad_metric=spec.on_bad_metric,
        stop=spec.stop,
        retries=times_of(spec.retries),
        more_memory=memory_factor(spec.retries),
        max_failures=bound(spec.budget.failures),
        fail_alike=FEWEST if spec.budget.failures is None else 0,
        time_budget=bound(spec.budget.time),
        limits=_limits(spec),
        target=spec.budget.target,
        # In the loop's own time nobody else is heard of while one steps: there the backend keeps the time.
        step_timeout=bound(spec.step_timeout if backend.parallel or backend.virtual else None),
        keep_last=spec.checkpoint.keep_last,
        keep_best=spec.checkpoint.keep_best,
        keep_warm=spec.keep_warm > 0,
    )


def _misfit_after(spec: SearchSpec, backend: Backend) -> float:
    if spec.misfit_after is not None:
        return spec.misfit_after
    seconds: float | None = getattr(backend, "misfit_after", None)
    return seconds if seconds is not None else MISFIT_AFTER if backend.parallel else 0.0


def _limits(spec: SearchSpec) -> Limits:
    budget = spec.budget
    inf = math.inf
    return Limits(
        deadline=inf if budget.deadline is None else datetime.fromisoformat(budget.deadline).timestamp(),
        gpu_seconds=inf if budget.gpu_hours is None else budget.gpu_hours * 3600,
        cost=inf if budget.cost is None else budget.cost.limit,
        per_gpu=0.0 if budget.cost is None else budget.cost.gpu,
        per_cpu=0.0 if budget.cost is None else budget.cost.cpu,
        saving=spec.grace,
    )
