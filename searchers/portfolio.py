"""A portfolio of searchers with one shared history, chosen by a bandit (Hoffman, Brochu and de Freitas, UAI 2011).

Each suggestion is made by one member. Of the newest trials it is known whose they were, and whether they are among the
best quarter at the highest resource that enough trials reached; a member is drawn by Thompson sampling of its share of
those (Chapelle and Li, NIPS 2011, Algorithm 2: a beta distribution for each). All members learn from all trials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.protocol.searcher import PastTrial, Suggestion
from tune_platform.searchers._learner import Learner
from tune_platform.searchers.bohb import BOHB
from tune_platform.searchers.cqr import CQR
from tune_platform.searchers.evolution import Evolution
from tune_platform.space import Space

RANDOM = "random"
_MEMBERS: Mapping[str, Callable[[], Learner]] = {"bohb": BOHB, "cqr": CQR, "evolution": Evolution}
_NEWEST = 100  # trials by which members are judged
_GOOD = 0.25  # the share of trials that count as good


class Portfolio(Learner):
    """A bandit over `members`, of bohb, cqr, evolution and random. One metric; a space that is written as a dict.

    `random_fraction` of the suggestions are drawn at random whatever the members did. SpecError on bad values. A
    suggestion costs what the member's does, and a look at the newest 100 trials.
    """

    name = "portfolio"

    def __init__(
        self, *, members: Sequence[str] = ("bohb", "evolution", "random"), random_fraction: float = 0.1
    ) -> None:
        super().__init__(random_fraction)
        known = [*_MEMBERS, RANDOM]
        for name in [members] if isinstance(members, str) else members:
            if name not in known:
                hint = did_you_mean(str(name), known)
                raise SpecError(f"portfolio: members: got {name!r}{hint}; allowed: {', '.join(known)}")
        if isinstance(members, str) or len(set(members)) < 2 or len(set(members)) < len(members):
            raise SpecError(f"portfolio: members: two or more different names are wanted, got {members!r}")
        self.members = tuple(members)

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which the registry builds it again."""
        return {"name": "portfolio", "members": list(self.members), "random_fraction": self.random_fraction}

    def setup(self, space: Space, *, mode: Sequence[str], seed: int) -> None:
        """Take the space. Raises SpecError for what its members refuse."""
        super().setup(space, mode=mode, seed=seed)
        self._by: dict[int, str] = {}
        self._built = {name: _MEMBERS[name]() for name in self.members if name != RANDOM}
        for member in self._built.values():
            member.setup(space, mode=mode, seed=seed)
            member.learn_from(self)

    def ask(self, number: int) -> Suggestion | None:
        """Suggest the config of trial `number`; `by` in its note names the member."""
        self._chosen = ""
        suggestion = super().ask(number)
        if suggestion is None or not self._chosen:
            return suggestion
        self._by[number] = self._chosen
        return Suggestion(suggestion.config, {**(suggestion.memo or {}), "by": self._chosen})

    def restore(self, past: Sequence[PastTrial]) -> None:
        """Hear the whole past."""
        super().restore(past)
        self._by.update({trial.number: trial.memo["by"] for trial in past if trial.memo and "by" in trial.memo})

    def suggest(self, generator: np.random.Generator, fixed: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what the member that is drawn suggests; None where it draws at random."""
        good = self._good()
        tried = dict.fromkeys(self.members, 0)
        won = dict.fromkeys(self.members, 0)
        for number in self._history.newest(_NEWEST):
            if (member := self._by.get(number)) in tried:
                tried[member] += 1
                won[member] += number in good
        drawn = [generator.beta(1 + won[name], 1 + tried[name] - won[name]) for name in self.members]
        self._chosen = self.members[int(np.argmax(drawn))]
        return None if self._chosen == RANDOM else self._built[self._chosen].suggest(generator, fixed)

    def _good(self) -> set[int]:
        """Return the newest of the best quarter at the highest resource that enough trials reached."""
        level = self._history.top(2 * self._enough)
        if level is None:
            return set()
        ranked = self._history.levels[level]
        worst, _ = ranked[max(int(len(ranked) * _GOOD) - 1, 0)]
        newest = self._history.newest(_NEWEST)
        return {number for number in newest if self._history.loss(number, level) <= worst}
