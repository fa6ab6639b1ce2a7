"""Schedulers say who goes on. `make_scheduler` finds one by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.protocol.scheduler import Candidates, Scheduler, TrialView
from tune_platform.schedulers.asha import ASHA
from tune_platform.schedulers.fifo import FIFO

__all__ = ["ASHA", "FIFO", "Candidates", "Scheduler", "TrialView", "make_scheduler", "scheduler_names"]

#: By name; the longer ones are Ray Tune's spellings of the same.
_BY_NAME: dict[str, Callable[..., Scheduler]] = {
    "fifo": FIFO,
    "asha": ASHA,
    "async_hyperband": ASHA,
    "asynchyperband": ASHA,
}


def scheduler_names() -> list[str]:
    """Return the names that `make_scheduler` knows."""
    return sorted(_BY_NAME)


def make_scheduler(scheduler: str | Scheduler, **options: Any) -> Scheduler:
    """Return the scheduler of that name built with `options`; an object is returned as it is.

    Raises SpecError for an unknown name or option, and for values that the scheduler refuses.
    """
    if not isinstance(scheduler, str):
        if options:
            raise SpecError(f"options {sorted(options)} go with a scheduler's name; got the object {scheduler!r}")
        return scheduler
    build = _BY_NAME.get(scheduler)
    if build is None:
        raise SpecError(
            f"there is no scheduler {scheduler!r}{did_you_mean(scheduler, _BY_NAME)}; known: {', '.join(_BY_NAME)}"
        )
    allowed = list(inspect.signature(build).parameters)
    for name in options:
        if name not in allowed:
            raise SpecError(
                f"scheduler {scheduler!r} has no option {name!r}{did_you_mean(name, allowed)}; "
                f"its options: {', '.join(allowed) or 'none'}"
            )
    return build(**options)
