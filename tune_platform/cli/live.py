"""Progress on a terminal: one region of at most 12 lines that is redrawn, and permanent lines above it.

The loop only notes what changed, which costs microseconds; a thread of `rich` draws a few times a second, so the clock
also moves while every trial is in the middle of a long step.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live as Region
from rich.text import Text

from tune_platform.cli.format import Differences, duration, number
from tune_platform.cli.notes import Note, Notes
from tune_platform.protocol.effects import Decided, Launched, Moved
from tune_platform.protocol.events import Reported

if TYPE_CHECKING:
    from tune_platform.engine.state import Best
    from tune_platform.engine.view import RunView
    from tune_platform.protocol.effects import Effect
    from tune_platform.protocol.events import Event

#: How often the region is drawn, per second.
RATE = 4.0
#: Running trials that are shown.
SHOWN = 5

#: Status, colour, and the sign that stands for it in the bar, from the left to the right.
_BAR = (
    ("COMPLETED", "green", "#"),
    ("STOPPED", "yellow", "="),
    ("FAILED", "red", "x"),
    ("RUNNING", "cyan", ">"),
    ("STARTING", "blue", ":"),
    ("PAUSING", "magenta", "+"),
    ("PAUSED", "magenta", "+"),
    ("PENDING", "bright_black", "."),
)
_NOTE_STYLES = {"best": "bold green", "failed": "red", "request": "magenta", "resumed": "magenta"}


@dataclass(slots=True)
class _Running:
    config: Mapping[str, Any]
    since: float
    step: int = 0
    value: Any = None


class Live:
    """A listener that keeps the region up to date. Use it in a with statement: its exit restores the terminal."""

    def __init__(self, name: str, console: Console, clock: Callable[[], float] = time.time) -> None:
        self._name, self._clock, self.console = name, clock, console
        self._notes = Notes(clock)
        self._configs = Differences()
        self._started = clock()
        self._lock = threading.RLock()  # also taken by a signal handler that prints in the middle of a turn
        self._counts: dict[str, int] = {}
        self._running: dict[int, _Running] = {}
        self._best: Best | None = None
        self._metric = ""
        self._budget: tuple[float, float] = (math.inf, math.inf)  # trials, seconds
        self._last = "starting ..."
        self._region = Region(
            console=console, get_renderable=lambda: self, refresh_per_second=RATE, transient=True, screen=False
        )
        self._hook = sys.breakpointhook

    def __enter__(self) -> Live:
        def pause(*args: Any, **kwargs: Any) -> Any:
            self._region.stop()  # a debugger needs the terminal for itself
            return self._hook(*args, **kwargs)

        self._hook, sys.breakpointhook = sys.breakpointhook, pause
        self._region.start()
        return self

    def __exit__(self, *_: object) -> None:
        sys.breakpointhook = self._hook
        self._region.stop()

    def __call__(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        """Note what changed; print what deserves a line of its own."""
        with self._lock:
            self._take(run, events, effects)
            notes = self._notes.hear(run, events, effects)
            for note in notes:
                self._last = note.text if note.kind != "best" else self._last
        for note in notes:
            self.console.print(_line(note), soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a permanent line of our own."""
        self.console.print(Text(text, style="bold yellow"), soft_wrap=True)

    def _take(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        settings = run.settings
        self._metric, self._best = settings.metrics[0], run.best
        self._budget = settings.num_samples, settings.time_budget
        self._counts = run.counts
        for event in events:
            if isinstance(event, Reported) and event.reports and event.trial in self._running:
                running, last = self._running[event.trial], event.reports[-1]
                running.step, running.value = last.step, last.value(self._metric)
        for effect in effects:
            if not isinstance(effect, (Launched, Decided, Moved)):
                continue
            trial = run.trial(effect.trial)
            if trial is None or not trial.placed:
                self._running.pop(effect.trial, None)
            elif isinstance(effect, Launched):
                self._configs.see(trial.config)
                self._running[effect.trial] = _Running(trial.config, self._clock(), trial.step)

    # ------------------------------------------------------------------------------- drawing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            lines = list(self._lines(options.max_width))
        for line in lines:
            line.no_wrap, line.overflow = True, "crop"
        yield Group(*lines)

    def _lines(self, width: int) -> Sequence[Text]:
        now = self._clock()
        trials, seconds = self._budget
        total = sum(self._counts.values())
        ended = sum(self._counts.get(name, 0) for name in ("COMPLETED", "STOPPED", "FAILED"))
        of = f" of {trials:g}" if math.isfinite(trials) else ""
        until = f" of {duration(seconds)}" if math.isfinite(seconds) else ""
        head = Text.assemble((self._name, "bold"), f"  {duration(now - self._started)}{until}  {ended}{of} trials done")
        lines = [head, self._bar(trials if math.isfinite(trials) else total, width)]
        best = self._best
        if best is not None:
            found = f"{self._metric} {number(best.value)}"
            lines.append(Text.assemble(("best  ", "bold"), (found, "bold green"),
                                       f"  trial {best.trial}, step {best.step}"))  # fmt: skip
            lines.append(Text(f"      {self._configs.text(best.config)}"))
        for trial, running in list(self._running.items())[:SHOWN]:
            found = f"{self._metric} {number(running.value)}" if running.step else "no report yet"
            lines.append(Text.assemble(
                (f"  trial {trial:<5}", "cyan"), f" step {running.step:<5} {found:<24} ",
                f"{duration(now - running.since):>8}  ",
                (self._configs.text(running.config), "dim"),
            ))  # fmt: skip
        if len(self._running) > SHOWN:
            lines.append(Text(f"  ... and {len(self._running) - SHOWN} more running", style="dim"))
        return [*lines, Text(f"last  {self._last}", style="dim")]

    def _bar(self, total: float, width: int) -> Text:
        """A bar of the states; each has its own sign, so that it can be read without colours."""
        length = max(10, min(40, width // 3))
        bar, words = Text("["), Text("]")
        scale = length / max(total, sum(self._counts.values()), 1)
        filled = 0
        for status, style, sign in _BAR:
            count = self._counts.get(status, 0)
            if not count:
                continue
            cells = min(max(1, round(count * scale)), length - filled)
            filled += cells
            bar.append(sign * cells, style=style)
            words.append(f"  {sign}", style=style)
            words.append(f" {count} {status.lower()}")
        return bar.append(" " * (length - filled)).append_text(words)


def _line(note: Note) -> Text:
    stamp = time.strftime("%H:%M:%S", time.localtime(note.time))
    return Text.assemble((stamp, "dim"), " ", (note.text, _NOTE_STYLES.get(note.kind, "")))
