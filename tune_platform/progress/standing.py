"""How a run stands: what every form of progress shows, kept up to date turn by turn."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tune_platform.progress.notes import Note, Notes
from tune_platform.progress.pace import Pace
from tune_platform.progress.text import Differences, counts, duration, number
from tune_platform.protocol.effects import Decided, Launched, Moved
from tune_platform.protocol.events import Reported

if TYPE_CHECKING:
    from tune_platform.engine.state import Best
    from tune_platform.engine.view import RunView, TrialLook
    from tune_platform.protocol.effects import Effect
    from tune_platform.protocol.events import Event

#: Notes that are kept to be shown.
KEPT = 5
#: Launches whose configs tell what differs in a search; later ones are looked at only when they are shown.
SEEN = 100
ENDED = ("COMPLETED", "STOPPED", "FAILED")


@dataclass(slots=True)
class Running:
    """A trial that holds a place; its config is looked at when it is drawn."""

    trial: TrialLook
    since: float
    step: int = 0
    value: Any = None


class Standing:
    """Hears of every turn, which costs microseconds. Hold `lock` while reading: others draw than hear.

    The lock may be taken again by its holder: a signal handler that says something comes in the middle of a turn.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.time) -> None:
        self.name, self.clock = name, clock
        self.lock = threading.RLock()
        self.counts: dict[str, int] = {}
        self.running: dict[int, Running] = {}
        self.best: Best | None = None
        self.metric = ""
        self.configs = Differences()
        self.notes: deque[Note] = deque(maxlen=KEPT)
        self.trials = self.time_budget = self.budget_end = math.inf
        self.end = ""  # how it ended
        self._launches = 0
        self._notes, self._pace = Notes(clock), Pace()
        self._elapsed, self._at = 0.0, clock()  # seconds of searching, when that was so

    def take(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> list[Note]:
        """Note what changed in one turn; return what of it is worth a line."""
        now = self.clock()
        with self.lock:
            self.metric, self.best, self.counts = run.settings.metrics[0], run.best, run.counts
            self.trials, self.time_budget = run.expected_trials, run.time_budget
            self._elapsed, self._at = run.elapsed, now
            self.budget_end = run.elapsed + run.budget_left
            for event in events:
                if isinstance(event, Reported) and event.reports and event.trial in self.running:
                    running, last = self.running[event.trial], event.reports[-1]
                    running.step, running.value = last.step, last.value(self.metric)
            for effect in effects:
                if isinstance(effect, (Launched, Decided, Moved)):
                    self._follow(run, effect, now)
            found = self._notes.hear(run, events, effects)
            self.notes.extend(note for note in found if note.kind != "best")  # that has a place of its own
        return found

    def _follow(self, run: RunView, effect: Launched | Decided | Moved, now: float) -> None:
        trial = run.trial(effect.trial)
        if trial is None or not trial.placed:
            gone = self.running.pop(effect.trial, None)
            if gone is not None and (trial is None or trial.ended):
                self._pace.ended(now, now - gone.since)
        elif isinstance(effect, Launched):
            if self._launches < SEEN:
                self.configs.see(trial.config)
            self._launches += 1
            self.running[effect.trial] = Running(trial, now, trial.step)
            self._pace.launched(now, len(self.running))

    def say(self, text: str) -> Note:
        """Keep a line of our own."""
        note = Note(self.clock(), "message", text)
        with self.lock:
            self.notes.append(note)
        return note

    # ------------------------------------------------------------------------------- in words

    def elapsed(self) -> float:
        """Return the seconds of searching, over all drivers."""
        if self.end or not self.counts:
            return self._elapsed
        return self._elapsed + self.clock() - self._at

    @property
    def done(self) -> int:
        """How many trials have ended."""
        return sum(self.counts.get(name, 0) for name in ENDED)

    def time(self) -> str:
        """Return "1m 05s of 1h 00m, about 3m 10s left"."""
        passed = self.elapsed()
        of = f" of {duration(self.time_budget)}" if math.isfinite(self.time_budget) else ""
        left = self.left()
        return f"{duration(passed)}{of}{f', {left}' if left else ''}"

    def left(self) -> str:
        """Return "about 3m 10s left", or nothing where that is not known."""
        by_pace, by_time = self._limits()
        if by_pace is not None and (by_time is None or by_pace <= by_time):
            return f"about {duration(by_pace)} left"
        return f"at most {duration(by_time)} left" if by_time is not None else ""

    def seconds_left(self) -> float | None:
        """Return the same as a number."""
        return min((left for left in self._limits() if left is not None), default=None)

    def _limits(self) -> tuple[float | None, float | None]:
        """Return the seconds that the trials still take at their pace, and those of the time budget; None: unknown."""
        by_pace, by_time = None, min(self.time_budget, self.budget_end) - self.elapsed()
        if self.end or not self.counts:
            return None, None
        if not self.counts.get("PAUSED"):  # of paused trials a scheduler goes on with some, nobody knows which
            since = (running.since for running in self.running.values())
            by_pace = self._pace.left(self.clock(), self.trials - self.done, since)
        return by_pace, by_time if 0 < by_time < math.inf else None

    def progress(self) -> str:
        """Return "12 of 64 trials done"."""
        of = f" of {self.trials:g}" if math.isfinite(self.trials) else ""
        return f"{self.done}{of} trials done"

    def best_words(self) -> str:
        """Return "loss 0.5 (trial 1, step 3)", or nothing."""
        best = self.best
        return f"{self.metric} {number(best.value)} (trial {best.trial}, step {best.step})" if best else ""

    def summary(self) -> str:
        """Return all that matters in one line."""
        best = self.best_words()
        return f"{self.time()}: {counts(self.counts, driven=not self.end)}{f'; best {best}' if best else ''}"
