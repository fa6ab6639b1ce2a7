"""The exceptions that users see.

    TunePlatformError
    ├── SpecError            the spec, the space or an argument is wrong; nothing has started
    ├── ExperimentError      the experiment cannot be found, opened, resumed or continued
    │   └── NameTakenError   there is one of that name already
    ├── CheckpointError      a checkpoint is missing, incomplete or does not match its checksum
    ├── MissingLibraryError  an optional library is not installed; the message says what to install
    ├── IllegalTransition    a bug in the engine: a trial was moved where it must not go
    ├── SearcherError        a searcher raised or returned something that is not in the space
    └── SchedulerError       a scheduler decided what cannot be done

Beside these `Interrupted`, a KeyboardInterrupt: a person wants the run to end at once.

A message says what happened, the value seen, what is allowed, and how to mend it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TunePlatformError(Exception):
    """Base of every error that this platform raises on purpose."""

    #: Whether a search had begun when it was raised; it can be resumed.
    midway = False


class SpecError(TunePlatformError, ValueError):
    """The search spec, the search space or an argument is wrong; nothing has been started."""


class ExperimentError(TunePlatformError):
    """An experiment cannot be found, opened, resumed or continued."""


class NameTakenError(ExperimentError):
    """There is an experiment of that name already.

    `name` is that, `state` how it stands ("finished: all 4 trials are done"), `free` another name that nobody has.
    """

    def __init__(self, message: str, name: str = "", state: str = "", free: str = "") -> None:
        super().__init__(message)
        self.name, self.state, self.free = name, state, free


class CheckpointError(TunePlatformError):
    """A checkpoint is missing, incomplete or does not match its checksum."""


class MissingLibraryError(TunePlatformError, ModuleNotFoundError):
    """What was asked for needs a library that is not installed: `name`, as it is imported."""

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message, name=name)


class SearcherError(TunePlatformError):
    """A searcher raised, or suggested something outside the search space."""


class SchedulerError(TunePlatformError):
    """A scheduler decided what cannot be done, such as to go on with a trial that does not exist."""


class IllegalTransition(TunePlatformError):  # noqa: N818 (the field's name for it)
    """A trial was moved along an edge that the status table does not have: a bug, with the history."""

    def __init__(self, trial: int, old: str, new: str, history: Iterable[object]) -> None:
        self.trial, self.old, self.new = trial, old, new
        story = "\n".join(f"  {entry}" for entry in history)
        super().__init__(f"trial {trial} cannot move from {old} to {new}; its history:\n{story}")


class Interrupted(KeyboardInterrupt):
    """A person ends a run at once: the second Ctrl-C. Training code that raises KeyboardInterrupt only fails."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ' (did you mean ...?)' for the known word closest to `word`; an empty string for one that is known."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close and close[0] != word else ""
