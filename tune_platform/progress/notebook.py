"""Progress in a notebook: one output of HTML that is updated in place. No widgets, no scripts, nothing to install.

The page's own colours are kept, so that it can be read in light and in dark; each state has its word beside its colour.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from tune_platform.progress.standing import Standing
from tune_platform.progress.text import duration, number, status_word
from tune_platform.progress.ticker import Ticker

if TYPE_CHECKING:
    from tune_platform.engine.view import RunView
    from tune_platform.protocol.commands import Finish
    from tune_platform.protocol.effects import Effect
    from tune_platform.protocol.events import Event

#: Seconds between two drawings.
PERIOD = 0.5
#: Running trials that are shown.
SHOWN = 10

_COLOURS = {
    "COMPLETED": "#2e8b57",
    "STOPPED": "#d4a017",
    "FAILED": "#c0392b",
    "RUNNING": "#2980b9",
    "STARTING": "#7fb3d5",
    "PAUSING": "#8e44ad",
    "PAUSED": "#8e44ad",
    "PENDING": "#aaaaaa",
}
_CELL = 'style="text-align:left;padding:1px 12px 1px 0"'


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, whose outputs can be updated."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class Notebook:
    """A listener that keeps the output up to date. Use it in a with statement."""

    def __init__(self, standing: Standing, *, opening: str = "") -> None:
        self._standing, self._opening = standing, opening
        self._handle: Any = None
        self._ticker = Ticker(self.draw, PERIOD)

    def __enter__(self) -> Notebook:
        from IPython.display import display

        self._handle = display(self._bundle(), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        self._ticker.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._ticker.stop()
        if error is not None:
            told = "interrupted" if not isinstance(error, Exception) else f"failed: {type(error).__name__}: {error}"
            self._standing.end = self._standing.end or told
        self.draw()

    def __call__(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        """Note what changed."""
        self._standing.take(run, events, effects)

    def say(self, text: str) -> None:
        """Show a line of our own."""
        self._standing.say(text)

    def output(self, trial: int, lines: Sequence[str]) -> None:
        """Print lines that a trial has printed, below."""
        sys.stdout.write("".join(f"trial {trial} | {line}\n" for line in lines))

    def end(self, finish: Finish) -> None:
        """Show how it ended."""
        self._standing.end = f"{finish.status}: {finish.reason}"

    def draw(self) -> None:
        """Put the present state in the place of the last one; a notebook that is gone is no reason to end a search."""
        with contextlib.suppress(Exception):
            self._handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        standing = self._standing
        with standing.lock:
            text = f"{standing.name}  {standing.progress()}  {standing.summary()}  {standing.end}".rstrip()
            return {"text/html": self.html(), "text/plain": text}

    def html(self) -> str:
        """Return the present state as HTML."""
        standing = self._standing
        parts = [
            f"<b>{escape(standing.name)}</b> &nbsp; {escape(standing.progress())} &nbsp; {escape(standing.time())}",
            self._bar(),
        ]
        if standing.end:
            parts.append(f"<b>{escape(standing.end)}</b>")
        if standing.best is not None:
            config = escape(standing.configs.text(standing.best.config))
            parts.append(f"<b>best</b> &nbsp; <b>{escape(standing.best_words())}</b> &nbsp; {config}")
        if standing.running:
            parts.append(self._table())
        told = [note.text for note in standing.notes]
        parts += [f'<span style="opacity:0.7">{escape(text)}</span>' for text in (*told, self._opening)]
        return "".join(f'<div style="margin:2px 0">{part}</div>' for part in parts)

    def _bar(self) -> str:
        counts = {status: count for status in _COLOURS if (count := self._standing.counts.get(status))}
        whole = max(self._standing.trials if self._standing.trials < float("inf") else 0, sum(counts.values()), 1)
        pieces = "".join(
            f'<div style="width:{100 * count / whole:.2f}%;background:{_COLOURS[status]}"></div>'
            for status, count in counts.items()
        )
        driven = not self._standing.end
        words = " &nbsp; ".join(
            f'<span style="color:{_COLOURS[status]}">&#9632;</span> {count} {status_word(status, driven).lower()}'
            for status, count in counts.items()
        )
        frame = "display:flex;height:8px;max-width:480px;background:rgba(128,128,128,0.25)"
        return f'<div style="{frame}">{pieces}</div>{words}'

    def _table(self) -> str:
        standing = self._standing
        now = standing.clock()
        rows = [
            (
                str(trial),
                str(running.step),
                number(running.value) if running.step else "",
                duration(now - running.since),
                standing.configs.text(running.trial.config),
            )
            for trial, running in list(standing.running.items())[:SHOWN]
        ]
        head = _row("th", ("trial", "step", standing.metric, "for", "config"))
        more = f"... and {len(standing.running) - SHOWN} more running" if len(standing.running) > SHOWN else ""
        table = head + "".join(_row("td", row) for row in rows)
        return f'<table style="color:inherit;font-size:inherit">{table}</table>{more}'


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag} {_CELL}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
