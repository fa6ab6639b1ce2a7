"""What running trials print, live in the driver: the new lines of their logs, each with its trial, and not too many."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tune_platform.progress.ticker import Ticker
from tune_platform.protocol.effects import Decided, Launched, Moved
from tune_platform.protocol.text import plain
from tune_platform.protocol.trial_log import LOG, folder_of

if TYPE_CHECKING:
    from tune_platform.engine.view import RunView
    from tune_platform.protocol.effects import Effect
    from tune_platform.protocol.events import Event

#: Seconds between two looks; lines of one trial and of all, and bytes of one trial, that one look shows at most.
PERIOD, LINES, ALL_LINES, BYTES = 0.5, 20, 100, 1 << 15


class _Log:
    """The log of one trial, and how much of it has been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = self._size()
        self.rest = b""  # the beginning of a line
        self.ended = False  # nothing more comes

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def lines(self, most: int) -> list[str]:
        """Return the new lines: the last `most` of them, and before these how many bytes are left out."""
        size = self._size()
        if size < self.place:  # it was deleted, and is another one now
            self.place, self.rest = 0, b""
        start = max(self.place, size - BYTES)
        if start > self.place:
            self.rest = b""
        left_out, data = start - self.place, b""
        if size > start:
            try:
                with self.path.open("rb") as file:
                    file.seek(start)
                    data = file.read(size - start)
            except OSError:
                return []
        self.place = start + len(data)
        *whole, self.rest = (self.rest + data).split(b"\n")
        if self.rest and (self.ended or len(self.rest) > BYTES):
            whole, self.rest = [*whole, self.rest], b""
        left_out += sum(len(line) + 1 for line in whole[:-most])
        # Of a bar that is drawn anew and anew in its line, only what it shows in the end.
        shown = [plain(line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]) for line in whole[-most:]]
        return [f"... {left_out:,} bytes are left out here", *shown] if left_out else shown


class Output:
    """A listener that shows what trials print. Use it in a with statement: its exit shows what is left.

    `trials` is the folder of the trials' own folders, `show(trial, lines)` prints.
    """

    def __init__(self, trials: str, show: Callable[[int, Sequence[str]], None]) -> None:
        self._trials, self._show = trials, show
        self._logs: dict[int, _Log] = {}
        self._lock = threading.Lock()
        self._ticker = Ticker(self.look, PERIOD)

    def __enter__(self) -> Output:
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ticker.stop()
        for log in self._logs.values():  # nobody else is there any more
            log.ended = True
        self.look()

    def __call__(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        """Note whose log is to be followed."""
        for effect in effects:
            if not isinstance(effect, (Launched, Decided, Moved)):
                continue
            number, trial = effect.trial, run.trial(effect.trial)
            with self._lock:
                if isinstance(effect, Launched) and number not in self._logs:
                    self._logs[number] = _Log(Path(folder_of(self._trials, number), LOG))
                if number in self._logs:
                    self._logs[number].ended = trial is None or trial.ended

    def look(self) -> None:
        """Show what is new; whose turn it was goes to the end of the line."""
        left = ALL_LINES
        with self._lock:
            logs = dict(self._logs)
        for number, log in logs.items():
            if left <= 0:
                return
            ended = log.ended  # first: what it printed before its end is then all there
            lines = log.lines(min(LINES, left))
            with self._lock:
                del self._logs[number]
                if not ended:
                    self._logs[number] = log
            if lines:
                left -= len(lines)
                self._show(number, lines)
