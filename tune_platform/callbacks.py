"""`Callback`: code of one's own that hears how a search goes, for trackers, alarms and the like."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tune_platform.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from tune_platform.engine.view import RunView, TrialLook
    from tune_platform.protocol.commands import Finish
    from tune_platform.protocol.reports import CheckpointRef, Report


class Callback:
    """Override what you want to hear of; give objects of it as `callbacks=[...]` to `run`, `resume` or `SearchSpec`.

    Each method is called once for each thing, in the order in which they happened, after it is committed: what is told
    is in the store. `run` and `trial` are read-only views of how things stand after that commit. All is called in the
    driver's loop, one at a time. While a method works no decision is made, though trials go on and nothing is lost; one
    that takes a large share of the time is told of. What a method raises is told once, with its traceback, and harms
    nothing: it is called again at the next occasion.

    A resumed search calls `on_start` again and then tells what is new; what was told to an earlier driver is not told
    again, and what happened in the moment in which that one was killed may never be.
    """

    def on_start(self, run: RunView) -> None:
        """Hear that a driver begins: `run.name`, `run.counts` of the trials that there are already."""

    def on_suggest(self, run: RunView, trial: TrialLook) -> None:
        """Hear of a new trial, with its `config`."""

    def on_report(self, run: RunView, trial: TrialLook, report: Report) -> None:
        """Hear of a report: `report.step`, `report.metrics`, `report.time` (epoch seconds, at the worker)."""

    def on_checkpoint(self, run: RunView, checkpoint: CheckpointRef) -> None:
        """Hear that a checkpoint is whole: its `trial`, `step`, `uri` and `bytes`. The trial may have ended by then."""

    def on_trial_end(self, run: RunView, trial: TrialLook) -> None:
        """Hear that a trial is COMPLETED, STOPPED or FAILED (`trial.status`), and why (`trial.reason`)."""

    def on_finish(self, run: RunView, finish: Finish) -> None:
        """Hear how it ended: `finish.status` is finished, stopped, failed or interrupted; `finish.reason`."""


#: What a callback can hear of.
HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


def check_callbacks(callbacks: Iterable[Any]) -> tuple[Callback, ...]:
    """Return callbacks that can work. Raises SpecError for what is none, or would never be called."""
    if isinstance(callbacks, Callback):
        callbacks = [callbacks]
    if isinstance(callbacks, (str, bytes)) or not isinstance(callbacks, Iterable):
        raise SpecError(f"callbacks: got {callbacks!r}; a list of objects of a subclass of Callback is wanted")
    found = tuple(callbacks)
    for index, one in enumerate(found):
        if isinstance(one, type) and issubclass(one, Callback):
            raise SpecError(f"callbacks[{index}] is the class {one.__name__}; give an object of it: {one.__name__}()")
        if not isinstance(one, Callback):
            raise SpecError(
                f"callbacks[{index}] is {one!r}; an object of a subclass of tune_platform.Callback is wanted"
            )
        for name in dir(one):
            if name.startswith("on_") and name not in HOOKS:
                hint = did_you_mean(name, HOOKS)
                raise SpecError(
                    f"callbacks[{index}]: {type(one).__name__}.{name} would never be called{hint}; "
                    f"there are {', '.join(HOOKS)}"
                )
        for name in HOOKS:
            _check_method(f"callbacks[{index}]: {type(one).__name__}.{name}", getattr(one, name), name)
    return found


def _check_method(where: str, method: Any, name: str) -> None:
    """Refuse what cannot be called with what is told, and what does nothing when it is called."""
    wanted = list(inspect.signature(getattr(Callback, name)).parameters)[1:]
    if not callable(method):
        raise SpecError(f"{where} is {method!r}; a method is wanted: {name}(self, {', '.join(wanted)})")
    if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise SpecError(f"{where} is async or a generator: called, it does nothing; write a plain method")
    try:
        inspect.signature(method).bind(*wanted)
    except TypeError as error:
        raise SpecError(f"{where} cannot be called as {name}({', '.join(wanted)}): {error}") from None
    except ValueError:  # nobody knows what it takes
        return
