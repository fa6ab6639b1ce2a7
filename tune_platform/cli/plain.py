"""Progress where nothing can be redrawn (a file, CI, a job's log): lines, ever fewer of them. Also as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from tune_platform.cli.common import finite
from tune_platform.cli.format import Differences, counts, duration, number
from tune_platform.cli.notes import Notes
from tune_platform.protocol.effects import Launched

if TYPE_CHECKING:
    from tune_platform.engine.view import RunView
    from tune_platform.protocol.effects import Effect
    from tune_platform.protocol.events import Event

#: Longest pause between two summary lines, in seconds; it begins with one second and doubles.
LONGEST = 60.0


class Plain:
    """A listener that writes events and, at doubling intervals, one summary line."""

    def __init__(self, stream: TextIO, *, as_json: bool = False, clock: Callable[[], float] = time.time) -> None:
        self._stream, self._json, self._clock = stream, as_json, clock
        self._notes = Notes(clock)
        self._configs = Differences()
        self._started = clock()
        self._pause = 1.0
        self._due = self._started + self._pause

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()

    def __call__(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        """Write what this turn is worth."""
        for effect in effects:
            if isinstance(effect, Launched) and (trial := run.trial(effect.trial)) is not None:
                self._configs.see(trial.config)
        for note in self._notes.hear(run, events, effects):
            # The live region has the best config in a line of its own; here it has to be in this one.
            more = f" ({self._configs.text(note.data['config'])})" if note.kind == "best" and not self._json else ""
            self._write(note.time, note.kind, note.text + more, note.data)
        now = self._clock()
        if now >= self._due:
            self._pause = min(LONGEST, self._pause * 2)
            self._due = now + self._pause
            self._write(now, "progress", *self._summary(run, now - self._started))

    def say(self, text: str) -> None:
        """Write a line of our own."""
        self._write(self._clock(), "message", text, {})

    def _summary(self, run: RunView, elapsed: float) -> tuple[str, dict[str, Any]]:
        by_status = run.counts
        text, data = f"{duration(elapsed)}: {counts(by_status)}", {"elapsed": elapsed, "counts": by_status}
        best = run.best
        if best is not None:
            metric = run.settings.metrics[0]
            text += f"; best {metric} {number(best.value)} (trial {best.trial}, step {best.step})"
            data["best"] = {"trial": best.trial, "step": best.step, "value": best.value}
        return text, data

    def _write(self, now: float, kind: str, text: str, data: Mapping[str, Any]) -> None:
        if self._json:
            line = json.dumps({"time": now, "event": kind, "text": text, **finite(data)}, ensure_ascii=False)
        else:
            line = f"{time.strftime('%H:%M:%S', time.localtime(now))} {text}"
        self._stream.write(line + "\n")
        self._stream.flush()
