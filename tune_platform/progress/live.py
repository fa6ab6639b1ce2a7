"""Progress on a terminal: one region of at most 12 lines that is redrawn, and permanent lines above it.

The loop only notes what changed, which costs microseconds; a thread of `rich` draws a few times a second, so the clock
also moves while every trial is in the middle of a long step.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live as Region
from rich.text import Text

from tune_platform.progress.standing import Running, Standing
from tune_platform.progress.text import duration, number

if TYPE_CHECKING:
    from tune_platform.engine.view import RunView
    from tune_platform.progress.notes import Note
    from tune_platform.protocol.commands import Finish
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
_STYLES = {"best": "bold green", "failed": "red", "request": "magenta", "resumed": "magenta", "message": "bold yellow"}


class Live:
    """A listener that keeps the region up to date. Use it in a with statement: its exit restores the terminal."""

    def __init__(self, standing: Standing, console: Console, *, opening: str = "") -> None:
        self._standing, self.console, self._opening = standing, console, opening
        self._region = Region(
            console=console,
            get_renderable=lambda: self,
            refresh_per_second=RATE,
            transient=True,
            screen=False,
            redirect_stdout=sys.stdout.isatty(),  # what goes to a file or a pipe still does
        )
        self._hook = sys.breakpointhook

    def __enter__(self) -> Live:
        def pause(*args: Any, **kwargs: Any) -> Any:
            self._region.stop()  # a debugger needs the terminal for itself
            return self._hook(*args, **kwargs)

        self._hook, sys.breakpointhook = sys.breakpointhook, pause
        if self._opening:
            self.say(self._opening)
        self._region.start()
        return self

    def __exit__(self, *_: object) -> None:
        sys.breakpointhook = self._hook
        with contextlib.suppress(OSError):  # the terminal was closed
            self._region.stop()

    def __call__(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        """Note what changed; print what deserves a line of its own."""
        for note in self._standing.take(run, events, effects):
            self._print(note)

    def say(self, text: str) -> None:
        """Print a permanent line of our own."""
        self._print(self._standing.say(text))

    def output(self, trial: int, lines: Sequence[str]) -> None:
        """Print lines that a trial has printed, above the region."""
        for line in lines:
            self.console.print(Text.assemble((f"trial {trial} | ", "cyan"), line), soft_wrap=True)

    def end(self, finish: Finish) -> None:
        """Leave one line behind that says how it ended."""
        self._region.stop()
        self._standing.end = finish.status
        self.console.print(Text(f"{self._standing.name} {finish.status}: {finish.reason}", "bold"), soft_wrap=True)
        self.console.print(Text(self._standing.summary()), soft_wrap=True)

    def _print(self, note: Note) -> None:
        stamp = time.strftime("%H:%M:%S", time.localtime(note.time))
        line = Text.assemble((stamp, "dim"), " ", (note.text, _STYLES.get(note.kind, "")))
        self.console.print(line, soft_wrap=True)

    # ------------------------------------------------------------------------------- drawing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._standing.lock:
            lines = list(self._lines(options.max_width))
        for line in lines:
            line.no_wrap, line.overflow = True, "crop"
        yield Group(*lines)

    def _lines(self, width: int) -> Sequence[Text]:
        standing = self._standing
        head = Text.assemble((standing.name, "bold"), f"  {standing.progress()}  {standing.time()}")
        lines = [head, self._bar(width)]
        if standing.best is not None:
            lines.append(Text.assemble(("best  ", "bold"), (standing.best_words(), "bold green")))
            lines.append(Text(f"      {standing.configs.text(standing.best.config)}"))
        lines += self._table(list(standing.running.items())[:SHOWN])
        if len(standing.running) > SHOWN:
            lines.append(Text(f"  ... and {len(standing.running) - SHOWN} more running", style="dim"))
        told = [note.text for note in standing.notes if note.kind != "message"]
        return [*lines, Text(f"last  {told[-1] if told else 'starting ...'}", style="dim")]

    def _table(self, shown: Sequence[tuple[int, Running]]) -> list[Text]:
        """One line for each running trial; each column as wide as it must be, so that the config has the rest."""
        standing = self._standing
        now = standing.clock()
        cells = [
            (
                f"trial {trial}",
                f"step {running.step}" if running.step else "starts",
                f"{standing.metric} {number(running.value)}" if running.step else "",
                duration(now - running.since),
            )
            for trial, running in shown
        ]
        wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [
            Text.assemble(
                (f"  {cell[0]:<{wide[0]}}", "cyan"),
                f"  {cell[1]:<{wide[1]}}  {cell[2]:<{wide[2]}}  {cell[3]:>{wide[3]}}  ",
                (standing.configs.text(running.trial.config), "dim"),
            )
            for cell, (_, running) in zip(cells, shown, strict=True)
        ]

    def _bar(self, width: int) -> Text:
        """A bar of the states; each has its own sign, so that it can be read without colours."""
        counts, trials = self._standing.counts, self._standing.trials
        length = max(10, min(40, width // 3))
        bar, words = Text("["), Text("]")
        scale = length / max(trials if math.isfinite(trials) else 0, sum(counts.values()), 1)
        filled = 0
        for status, style, sign in _BAR:
            count = counts.get(status, 0)
            if not count:
                continue
            cells = min(max(1, round(count * scale)), length - filled)
            filled += cells
            bar.append(sign * cells, style=style)
            words.append(f"  {sign}", style=style)
            words.append(f" {count} {status.lower()}")
        return bar.append(" " * (length - filled)).append_text(words)
