"""Progress where nothing can be redrawn (a file, CI, a job's log): lines, ever fewer of them. Also as JSON."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from tune_platform.progress.standing import Standing
from tune_platform.progress.text import finite
from tune_platform.progress.ticker import Ticker

if TYPE_CHECKING:
    from tune_platform.engine.view import RunView
    from tune_platform.protocol.commands import Finish
    from tune_platform.protocol.effects import Effect
    from tune_platform.protocol.events import Event

#: First and longest pause between two summary lines, in seconds; they double.
FIRST, LONGEST = 1.0, 60.0
#: Seconds between two looks at the clock, while trials are in the middle of a long step.
PERIOD = 0.5


class Plain:
    """A listener that writes events and, at doubling intervals, one summary line.

    `quiet`: seconds in which nothing is written but failures and messages, so that a short search leaves no lines.
    """

    def __init__(
        self,
        standing: Standing,
        stream: TextIO,
        *,
        opening: str = "",
        quiet: float = 0.0,
        as_json: bool = False,
    ) -> None:
        self._standing, self._stream, self._json = standing, stream, as_json
        self._opening, self._clock = opening, standing.clock
        self._lock = threading.RLock()
        self._pause = quiet or FIRST
        self._due = self._clock() + self._pause
        self._quiet = quiet > 0
        self._spoke = False
        self._ticker = Ticker(self.tick, PERIOD)

    def __enter__(self) -> Plain:
        if not self._quiet:
            self._open()
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ticker.stop()

    def __call__(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        """Write what this turn is worth."""
        standing = self._standing
        for note in standing.take(run, events, effects):
            # The live region has the best config in a line of its own; here it has to be in this one.
            more = f" ({standing.configs.text(note.data['config'])})" if note.kind == "best" and not self._json else ""
            if not self._quiet or note.kind == "failed":
                self._write(note.time, note.kind, note.text + more, note.data)
        self.tick()

    def tick(self) -> None:
        """Write a summary if one is due."""
        with self._lock:
            now = self._clock()
            if now < self._due or not self._standing.counts:
                return
            self._pause = min(LONGEST, self._pause * 2)
            self._due, self._quiet = now + self._pause, False
            with self._standing.lock:
                text, data = self._standing.summary(), self._data()
            self._write(now, "progress", text, data)

    def say(self, text: str) -> None:
        """Write a line of our own."""
        self._write(self._clock(), "message", text, {})

    def output(self, trial: int, lines: Sequence[str]) -> None:
        """Write lines that a trial has printed."""
        for line in lines:
            self._write(self._clock(), "output", f"trial {trial} | {line}", {"trial": trial, "line": line})

    def end(self, finish: Finish) -> None:
        """Write how it ended, if anything was written before."""
        if self._spoke or not self._quiet:
            self._standing.end = finish.status
            summary, data = self._standing.summary(), self._data()
            data |= {"status": finish.status, "reason": finish.reason}
            self._write(self._clock(), "end", f"{finish.status}: {finish.reason}; {summary}", data)

    def _data(self) -> dict[str, Any]:
        standing = self._standing
        data: dict[str, Any] = {"elapsed": standing.elapsed(), "counts": standing.counts}
        if (left := standing.seconds_left()) is not None:
            data["left"] = left
        if standing.best is not None:
            data["best"] = {key: getattr(standing.best, key) for key in ("trial", "step", "value")}
        return data

    def _open(self) -> None:
        if self._opening:
            text, self._opening = self._opening, ""
            self._write(self._clock(), "message", text, {})

    def _write(self, now: float, kind: str, text: str, data: Mapping[str, Any]) -> None:
        with self._lock:
            self._spoke = True
            self._open()
            if self._json:
                line = json.dumps({"time": now, "event": kind, "text": text, **finite(data)}, ensure_ascii=False)
            else:
                line = f"{time.strftime('%H:%M:%S', time.localtime(now))} {text}"
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError, RuntimeError):  # closed; or a signal came in the middle of another line
                pass  # nobody reads any more: no reason for a search to end
