"""What follows from failures: whether a trial is tried again, with what, and whether the search makes sense at all.

Where all of its first trials fail with one and the same error, the next ones would.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tune_platform.engine.settings import Settings
from tune_platform.protocol.events import Failed
from tune_platform.protocol.verdicts import Resize
from tune_platform.resources import Resources

#: What the machines do to a trial: no fault of its own, so that it never uses up its retries.
_OF_THE_MACHINES = ("preempted", "disk_full", "storage_away")
#: How often a trial may lose its node before it has come a step further each time: it may be what brings it down; and
#: how often a clone may lose what it is to go on from.
LOST_AT_ONCE = 5
#: Trials that must have failed alike, at least, before a search is given up by default.
FEWEST = 3
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def allowed_retries(settings: Settings, event: Failed, steps: int = 0, *, anothers: bool = False) -> float:
    """Return how often a trial may fail of such a cause and be tried again; inf where that is no fault of its own.

    `steps`: how far the trial has come. One whose nodes are lost again and again without a step between is given up.
    `anothers`: the checkpoint that was lost is another trial's, from which this one is a clone.
    """
    if event.fatal:
        return 0
    if event.cause in _OF_THE_MACHINES:
        return math.inf
    if event.cause == "node_lost":
        return LOST_AT_ONCE + steps
    if event.cause == "out_of_memory" and event.cause not in settings.retries:
        return settings.retries.get("worker_died", 0)  # it was called so before
    allowed = settings.retries.get(event.cause, 0)
    return max(allowed, LOST_AT_ONCE) if allowed and anothers else allowed


def with_more_memory(settings: Settings, resources: Resources) -> Resize | None:
    """Return what a trial whose memory ran out is to hold from now on; None where that stays as it is."""
    memory = resources.custom.get("memory", 0.0)
    if settings.more_memory == 1 or not memory:
        return None
    more = float(math.ceil(memory * settings.more_memory))
    reason = f"its memory ran out: {more:g} bytes from now on, {settings.more_memory:g} times as much"
    return Resize(resources=replace(resources, custom={**resources.custom, "memory": more}), reason=reason)


@dataclass(slots=True)
class FirstTrials:
    """What the trials that have ended so far have in common. All of it is a function of the log."""

    count: int = 0  # those that have failed with `error`, which is the first line of theirs, but for the numbers in it
    error: str = ""
    differ: bool = False  # one has ended otherwise: nothing follows from them any more
    good: bool = False  # one has ended well, with a value

    def note(self, failure: str | None, *, valued: bool) -> None:
        """Note the end of a trial: why it failed, or None; `valued`: it has a value of the metric."""
        self.good = self.good or (failure is None and valued)
        line = (failure or "").partition("\n")[0]
        self.differ = self.differ or failure is None or (self.count > 0 and not _alike(line, self.error))
        self.count, self.error = self.count + (failure is not None), line or self.error

    def again(self) -> None:
        """Begin anew: somebody resumes what was over, with other code perhaps."""
        self.count, self.error, self.differ = 0, "", False

    def hopeless(self, fewest: int, places: int) -> str:
        """Return why no more trials are tried, once the first (so many as run at a time) have all failed alike."""
        if not fewest or self.differ or self.count < max(fewest, places):
            return ""
        return (
            f"all of the first {self.count} trials failed with the same error: {self.error}. Mend it and resume; or "
            "give budget.failures, a number of failed trials that the search is to survive"
        )

    def none_good(self, metrics: Sequence[str]) -> str:
        """Return why the search has failed, however it ended: no trial is worth anything; empty where one is."""
        if self.good:
            return ""
        error = f"; the last error: {self.error}" if self.error else ""
        return f"none has a value of {' and '.join(map(repr, metrics))} and ended well{error}"


def _alike(one: str, other: str) -> bool:
    """Whether two errors are the same but for numbers: those of a config, of processes, addresses of objects."""
    return _NUMBER.sub("0", one) == _NUMBER.sub("0", other)
