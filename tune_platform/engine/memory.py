"""What a searcher knew when a log ends, so that a resumed one is asked exactly what it would have been asked.

Asks are answered in order. So at the end of the log, the oldest ask without an answer parts the calls: what came
before it is the past, and the rest (tells, trials of persons, asks) is given to the searcher again, in order.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Collection, Iterable

from tune_platform.protocol.commands import Ask, Command, Tell
from tune_platform.protocol.events import Event, Exhausted, Resumed, Suggested
from tune_platform.protocol.searcher import Outcome, PastTrial

Call = Ask | Tell | Suggested  # Suggested: the searcher observes a trial that a person added


class Memory:
    """Folds the log's events and commands into the searcher's past and the calls that it is owed.

    Where the searcher's state of some moment is known, it is enough to fold what came after that; `known` are trials
    that this state has already, though they come only later in the log.
    """

    def __init__(self, known: Collection[int] = ()) -> None:
        self.owed: deque[Call] = deque()  # begins with an Ask, unless it is empty
        self._known = frozenset(known)
        self._suggested: dict[int, Suggested] = {}
        self._outcomes: dict[int, Outcome] = {}

    def note_event(self, event: Event, failed: Collection[int] = ()) -> None:
        """Note a fact, before the controller handles it; `failed` are the trials that have failed by then."""
        if isinstance(event, Suggested):
            if event.origin == "user":
                self.owed.append(event)
            else:
                with contextlib.suppress(ValueError):
                    self.owed.remove(Ask(trial=event.trial))
                if event.trial not in self._known:
                    self._suggested[event.trial] = event
            self._settle()
        elif isinstance(event, Exhausted):
            self.owed = deque(call for call in self.owed if not isinstance(call, Ask))
            self._settle()
        elif isinstance(event, Resumed) and event.retry_failed:
            # They live again, whatever was told of them.
            self.owed = deque(call for call in self.owed if not (isinstance(call, Tell) and call.trial in failed))
            for number in failed:
                self._outcomes.pop(number, None)

    def note_commands(self, commands: Iterable[Command]) -> None:
        """Note what the controller said on it."""
        self.owed.extend(command for command in commands if isinstance(command, (Ask, Tell)))
        self._settle()

    def past(self) -> list[PastTrial]:
        """Return the past, in the order of the trials' numbers."""
        return [
            PastTrial(number, event.config, event.memo, self._outcomes.get(number))
            for number, event in sorted(self._suggested.items())
        ]

    def later(self) -> list[Tell]:
        """Return what came of trials that are known, or were suggested before the first event noted here."""
        return [
            Tell(trial=number, outcome=outcome)
            for number, outcome in sorted(self._outcomes.items())
            if number not in self._suggested
        ]

    def _settle(self) -> None:
        while self.owed and not isinstance(self.owed[0], Ask):
            call = self.owed.popleft()
            if isinstance(call, Tell):
                self._outcomes[call.trial] = call.outcome
            elif isinstance(call, Suggested):
                self._suggested[call.trial] = call
