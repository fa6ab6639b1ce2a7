"""Mistakes of the training code, or in naming it, as failures of the trial."""

from __future__ import annotations

import bdb
import importlib
import signal
import threading
from collections.abc import Iterable
from typing import Any, NoReturn

from tune_platform.backends._batch import Failure, traceback_of
from tune_platform.errors import Interrupted, SpecError, did_you_mean
from tune_platform.modules import entrypoint_today
from tune_platform.protocol.reports import Report, finite
from tune_platform.surroundings import check_name
from tune_platform.trainable import ANONYMOUS_METRIC


class Failing(Exception):  # noqa: N818 (it carries a failure out of the loop, nothing sees it as an error)
    """Ends a trial with a failure that is known in all its fields."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def ends_the_run(error: BaseException) -> bool:
    """Whether a person wants to end the run, or the debugging session: that is no failure of the trial.

    A plain KeyboardInterrupt may be a Ctrl-C where Python's own handler stands; a run has its own, which raises
    Interrupted.
    """
    if isinstance(error, (Interrupted, bdb.BdbQuit)):
        return True
    own_handler = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    in_main_thread = threading.current_thread() is threading.main_thread()
    return isinstance(error, KeyboardInterrupt) and own_handler and in_main_thread


def resolve(trainable: Any) -> Any:
    """Return what an entrypoint names, imported; anything else as it is. Raises Failing where it cannot be."""
    if not isinstance(trainable, str):
        return trainable
    module, _, name = entrypoint_today(trainable).partition(":")
    if not module or not name:
        _misnamed(f"trainable {trainable!r} is not an entrypoint: write 'package.module:name'")
    try:
        check_name(module)
        found: Any = importlib.import_module(module)
    except SpecError as error:
        _misnamed(f"trainable {trainable!r}: {error}", error)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, but something that it imports is not
        _misnamed(f"trainable {trainable!r}: the worker's import path has no module {error.name!r}", error)
    for part in name.split("."):
        if not hasattr(found, part):
            hint = did_you_mean(part, [other for other in vars(found) if not other.startswith("_")])
            _misnamed(f"trainable {trainable!r}: {found!r} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


def _misnamed(message: str, error: BaseException | None = None) -> NoReturn:
    raise Failing(Failure("exception", message, traceback_of(error) if error else "", fatal=True)) from error


def misreported(message: str) -> NoReturn:
    """Raise Failing for a report that no trial should make."""
    raise Failing(Failure("bad_report", message, fatal=True))


def progress_of(report: Report, resource: str, before: float | None) -> float:
    """Return how far a trial is, which was at `before`. Raises Failing for a report that does not say so."""
    progress = report.value(resource)
    if progress is None:
        misreported(
            f"{resource!r}, in which milestones are measured, is not in the report of step {report.step}; "
            f"{reported(resource, report.metrics)}. Report it, or measure in 'step'"
        )
    found = finite(progress)
    if found is None:
        misreported(f"{resource!r} is {progress!r} at step {report.step}; it must be a finite number")
    if before is not None and found <= before:
        misreported(
            f"{resource!r} must rise from report to report, but went from {before:g} to {found:g} at step {report.step}"
        )
    return found


def reported(name: str, names: Iterable[str]) -> str:
    """Return which names were reported, and the one that `name` was perhaps meant to be."""
    names = sorted(names)
    if names == [ANONYMOUS_METRIC]:
        return f"a number was returned, without a name: return {{{name!r}: value}}"
    return f"reported: {', '.join(names) or 'nothing'}{did_you_mean(name, names)}"
