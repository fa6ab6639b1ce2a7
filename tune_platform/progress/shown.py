"""Which form progress takes, and what a run needs of it: listeners, a voice, and a word at the end."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.progress import FORMS
from tune_platform.progress.notebook import Notebook, in_notebook
from tune_platform.progress.plain import Plain
from tune_platform.progress.standing import Standing

if TYPE_CHECKING:
    from tune_platform.engine.runner import Listener
    from tune_platform.engine.view import RunView
    from tune_platform.protocol.commands import Finish
    from tune_platform.protocol.effects import Effect
    from tune_platform.protocol.events import Event

#: Seconds in which a search that was started from Python writes no lines where nothing can be redrawn: many are short,
#: and their caller goes on with what they return.
QUIET = 5.0
#: Held by the one region of this process that is redrawn.
_REGION = threading.Lock()
#: What shows the search that is run in this context.
_shown: contextvars.ContextVar[Display | None] = contextvars.ContextVar("shown", default=None)


class Display(Protocol):
    """A listener that can also say something of its own."""

    def __call__(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect], /) -> None:
        """Show one turn."""

    def say(self, text: str) -> None:
        """Show a line."""

    def output(self, trial: int, lines: Sequence[str]) -> None:
        """Show lines that a trial has printed."""

    def end(self, finish: Finish) -> None:
        """Show how it ended."""


class Shown:
    """What a run does with its display, if it has one."""

    def __init__(self, display: Display | None) -> None:
        self._display = display

    @property
    def listeners(self) -> list[Listener]:
        """What has to hear of every turn."""
        return [_Interruptions(self._display), self._display] if self._display is not None else []

    def say(self, text: str) -> None:
        """Show a line."""
        if self._display is not None:
            self._display.say(text)

    def end(self, finish: Finish) -> None:
        """Show how it ended."""
        if self._display is not None:
            self._display.end(finish)


def check_form(form: str) -> str:
    """Return a form that there is. Raises SpecError for any other."""
    if form not in FORMS:
        raise SpecError(f"progress: got {form!r}; allowed: {', '.join(FORMS)}{did_you_mean(str(form), FORMS)}")
    return form


@contextlib.contextmanager
def shown(name: str, form: str, *, opening: str = "", quiet: float = QUIET) -> Iterator[Shown]:
    """Show how the search `name` goes, on stderr or in the notebook's cell.

    `form` is one of `FORMS`; "live" is lines too where nothing can be redrawn. `opening` is said first. `quiet`: for so
    many seconds "auto" says nothing in lines but failures. Raises SpecError for a form that there is not.
    """
    check_form(form)
    if form == "off" or (sys.stderr is None and not in_notebook()):
        yield Shown(None)
        return
    standing = Standing(name)
    with contextlib.ExitStack() as stack:
        display: Any = None
        if form in ("auto", "live"):
            display = Notebook(standing, opening=opening) if in_notebook() else _region(standing, opening, stack)
        if display is None:
            pause = quiet if form == "auto" else 0.0
            display = Plain(standing, sys.stderr, opening=opening, quiet=pause, as_json=form == "json")
        stack.enter_context(display)
        stack.enter_context(_spoken(display))
        before = _shown.set(display)
        try:
            yield Shown(display)
        finally:
            _shown.reset(before)


def show_output(trial: int, lines: Sequence[str]) -> None:
    """Show lines that a trial has printed where the search is shown; where it is not, on stderr."""
    display = _shown.get()
    if display is not None:
        display.output(trial, lines)
    elif sys.stderr is not None:
        sys.stderr.write("".join(f"trial {trial} | {line}\n" for line in lines))


def _region(standing: Standing, opening: str, stack: contextlib.ExitStack) -> Display | None:
    """Return a region of the terminal, where stderr is one and no other search of this process has its region there."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb" or not _REGION.acquire(blocking=False):
        return None
    stack.callback(_REGION.release)
    from rich.console import Console

    from tune_platform.progress.live import Live

    return Live(standing, Console(file=sys.stderr, highlight=False, emoji=False, markup=False), opening=opening)


@contextlib.contextmanager
def _spoken(display: Display) -> Iterator[None]:
    """Show what the platform logs (what an interrupted run waits for, a store that is away) as lines of the display.

    Not where the program's own logging writes it to the same place already.
    """
    logger = logging.getLogger("tune_platform")
    if _heard(logger):
        yield
        return
    handler = _Spoken(display)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _heard(logger: logging.Logger | None) -> bool:
    """Whether records of this logger reach stderr or stdout."""
    streams = (sys.stderr, sys.__stderr__, sys.stdout, sys.__stdout__)
    while logger is not None:
        if any(getattr(handler, "stream", None) in streams for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


class _Spoken(logging.Handler):
    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone, which is why the run ends
            self._display.say(self.format(record))


def ending_signals() -> list[signal.Signals]:
    """Return the signals that end a run gracefully: SIGHUP too (a closed terminal), unless `nohup` has it ignored."""
    found = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


class _Interruptions:
    """Says what a Ctrl-C does. The run's own handlers do it; they are in place by the first turn."""

    def __init__(self, display: Display) -> None:
        self._display, self._seen, self._set = display, 0, False

    def __call__(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        if self._set or threading.current_thread() is not threading.main_thread():
            return
        self._set = True
        for number in ending_signals():
            inner = signal.getsignal(number)
            if callable(inner):
                signal.signal(number, self._announcing(inner))

    def _announcing(self, inner: Callable[[int, Any], Any]) -> Callable[[int, Any], Any]:
        def handle(number: int, frame: Any) -> Any:
            self._seen += 1
            if self._seen == 1:
                with contextlib.suppress(Exception):  # whatever line it came in the middle of, the run has to hear
                    self._display.say("ending gracefully: running trials write a checkpoint; Ctrl-C again ends at once")
            return inner(number, frame)

        return handle
