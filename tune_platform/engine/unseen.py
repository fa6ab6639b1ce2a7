"""Conditions of `stop` that no report can meet, because none has their name: a trial would never end by them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tune_platform.errors import did_you_mean
from tune_platform.protocol.events import Event, Reported
from tune_platform.protocol.reports import ALWAYS


class Unseen:
    """Looks at the reports of a new experiment until its first trial has ended."""

    def __init__(self, stop: Iterable[str]) -> None:
        self._left = [name for name in stop if name not in ALWAYS]
        self._names: dict[str, None] = {}

    def look(self, events: Sequence[Event], *, ended: bool) -> list[str]:
        """Take what was reported; once a trial has ended, return what to tell a person, once."""
        if not self._left:
            return []
        for event in events:
            if isinstance(event, Reported):
                for report in event.reports:
                    self._names.update(dict.fromkeys(report.metrics))
        self._left = [name for name in self._left if name not in self._names]
        if not (ended and self._names):
            return []
        left, self._left = self._left, []
        known = ", ".join(sorted(self._names))
        return [
            f"stop: {name!r} was in no report by the end of the first trial, so that no trial is stopped by it; "
            f"reported: {known}{did_you_mean(name, [*self._names, *ALWAYS])}"
            for name in left
        ]
