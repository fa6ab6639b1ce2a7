"""What of a turn of the loop is worth a line to a person, and in which words.

New bests and failures always are; stops, pauses and clones ever more rarely. Pure but for its clock.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tune_platform.progress.text import number, shorten
from tune_platform.protocol.configs import shown
from tune_platform.protocol.effects import Decided, Effect
from tune_platform.protocol.events import CapacityChanged, Event, Exhausted, Failed, Requested, Resumed
from tune_platform.protocol.text import choices_of
from tune_platform.protocol.verdicts import Clone, Pause, Resize, Stop

if TYPE_CHECKING:
    from tune_platform.engine.state import Best
    from tune_platform.engine.view import RunView

#: Seconds between two lines on a new best trial ...
GAP = 1.0
#: ... and on the best trial getting better still, as most trials do with every report. Between two lines on stopped,
#: paused and cloned trials the pause doubles from the one to the other: the first ones show how a scheduler decides.
LONG_GAP = 30.0

_FRAME = re.compile(r'^ *File "(?P<file>.+)", line (?P<line>\d+), in (?P<name>.+)$', re.MULTILINE)
_NOT_THE_USERS = re.compile(r"site-packages|dist-packages|/lib/python3|<frozen|[/\\]tune_platform[/\\]")


@dataclass(frozen=True, slots=True)
class Note:
    """One line. `kind`: best | stop | pause | clone | failed | request | resumed | resources | search."""

    time: float  # seconds since the epoch
    kind: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Notes:
    """Listens to every turn and gives the lines that it is worth."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._best: Best | None = None
        self._best_told = self._quiet_due = -math.inf
        self._left_out, self._gap = 0, GAP
        self._failures: dict[str, int] = {}

    def hear(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> list[Note]:
        """Return the notes on one turn."""
        found: list[Note] = []
        for event in events:
            if isinstance(event, _TOLD):
                found += self._on_event(run, event)
        for effect in effects:
            if isinstance(effect, Decided) and isinstance(effect.verdict, (Stop, Pause, Clone, Resize)):
                found += self._on_verdict(effect)
        best = run.best
        if best is not None and best is not self._best and self._clock() >= self._best_due(best):
            self._best, self._best_told = best, self._clock()
            metric = run.settings.metrics[0]
            text = f"best so far: {metric} {number(best.value)} by trial {best.trial} at step {best.step}"
            data = {"trial": best.trial, "step": best.step, "value": best.value, "config": shown(dict(best.config))}
            found.append(self._note("best", text, data))
        return found

    def _best_due(self, best: Best) -> float:
        same = self._best is not None and self._best.trial == best.trial
        return self._best_told + (LONG_GAP if same else GAP)

    def _on_event(self, run: RunView, event: Event) -> list[Note]:
        match event:
            case Failed():
                return self._on_failed(run, event)
            case Requested():
                what = event.action if event.trial is None else f"{event.action} trial {event.trial}"
                return [self._note("request", f"a person asked: {what}", {"action": event.action})]
            case Resumed():
                more = f"; choices got more values: {choices_of(event.choices)}" if event.choices else ""
                return [self._note("resumed", f"going on from the log; what was running starts again{more}", {})]
            case CapacityChanged():
                nodes = "; ".join(filter(None, map(values_of, event.nodes))) or "nothing yet"
                return [self._note("resources", f"resources: {shorten(nodes, 200)}", {"nodes": len(event.nodes)})]
            case Exhausted():
                return [self._note("search", f"no further suggestions: {event.reason}", {})]
        return []

    def _on_failed(self, run: RunView, event: Failed) -> list[Note]:
        frame, message = where(event.traceback), last_line(event.traceback) or event.message
        signature = f"{frame} {message}"
        count = self._failures[signature] = self._failures.get(signature, 0) + 1
        if not _round(count):
            return []
        trial = run.trial(event.trial)
        again = "; tried again" if trial is not None and not trial.ended else ""
        times = "" if count == 1 else f" ({count} times so far)"
        text = f"trial {event.trial} failed: {message}{f' [{frame}]' if frame else ''}{again}{times}"
        data = {"trial": event.trial, "cause": event.cause, "message": message, "frame": frame, "count": count}
        return [self._note("failed", text, data)]

    def _on_verdict(self, decide: Decided) -> list[Note]:
        now = self._clock()
        if now < self._quiet_due:
            self._left_out += 1
            return []
        verdict, more = decide.verdict, f" (and {self._left_out} more)" if self._left_out else ""
        self._quiet_due, self._left_out = now + self._gap, 0
        self._gap = min(2 * self._gap, LONG_GAP)
        kind = type(verdict).__name__.lower()
        done = "completed" if isinstance(verdict, Stop) and verdict.completed else _DONE[kind]
        at = f"trial {decide.trial} {done} at step {decide.step}: {verdict.reason}"
        if isinstance(verdict, Clone):
            at = f"trial {decide.trial} goes on as a copy of trial {verdict.source}: {verdict.reason}"
        return [self._note(kind, at + more, {"trial": decide.trial, "step": decide.step, "reason": verdict.reason})]

    def _note(self, kind: str, text: str, data: Mapping[str, Any]) -> Note:
        return Note(self._clock(), kind, text, data)


_TOLD = (Failed, Requested, Resumed, CapacityChanged, Exhausted)
_DONE = {"stop": "stopped", "pause": "paused", "clone": "cloned", "resize": "resized"}


def where(traceback: str) -> str:
    """Return "train.py:31 in step": the innermost frame of a traceback that is in the user's own code."""
    frames = list(_FRAME.finditer(traceback))
    own = [frame for frame in frames if not _NOT_THE_USERS.search(frame["file"])]
    if not frames:
        return ""
    frame = (own or frames)[-1]
    file = frame["file"].replace("\\", "/").rpartition("/")[2]
    return f"{file}:{frame['line']} in {frame['name']}"


def last_line(text: str) -> str:
    """Return the last line that is not empty: in a traceback, the exception and its message."""
    lines = text.rstrip().splitlines()
    return lines[-1].strip() if lines else ""


def values_of(node: Mapping[str, float]) -> str:
    """Return "8 CPU, 1 GPU, 15.4 GiB of memory"; what a share has none of is left out, little memory is in MiB."""

    def text(name: str, amount: float) -> str:
        if name.endswith("memory"):
            size = f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{math.ceil(amount / 2**20)} MiB"
            return f"{size} of {name}"
        return f"{amount:g} {name.upper() if name in ('cpu', 'gpu') else name}"

    return ", ".join(text(name, amount) for name, amount in node.items() if amount)


def _round(count: int) -> bool:
    """Whether it is 1, 10, 100 ...: the times at which a repeated failure is told again."""
    return str(count).strip("0") == "1"
