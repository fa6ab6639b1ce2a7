"""What the searchers in NumPy that learn share: the history, a grid, random draws between suggestions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome, PastTrial, Suggestion
from tune_platform.protocol.seeds import rng
from tune_platform.searchers._history import History
from tune_platform.searchers._normal import normal_scores
from tune_platform.searchers._places import Places
from tune_platform.searchers._tried import Tried
from tune_platform.space import Space
from tune_platform.space.encoding import Encoding


class Learner(ABC):
    """One metric; a space that is written as a dict. What it suggests is a function of the seed and of what was told.

    With a warm start the best config of each earlier experiment is tried first (Feurer, Springenberg and Hutter, AAAI
    2015), and the model begins with the ranks of all of theirs, until enough trials of its own are known.

    `random_fraction` of the suggestions are drawn at random, and all of them while too little is known.
    """

    synchronous = False
    lookahead: int | None = 0
    follows = True
    duplicates = "allow"  #: `avoid`: no config is suggested that was tried; set before `setup`
    exhausted = ""  #: why there is nothing more to try
    warm: Sequence[Sequence[Mapping[str, Any]]] = ()  #: configs of earlier experiments, best first; set before `setup`
    name: ClassVar[str]

    def __init__(self, random_fraction: float) -> None:
        self.check("random_fraction", random_fraction, 0, 1)
        self.random_fraction = random_fraction

    def check(self, option: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
        """Raise SpecError where an option's value is no number of that range."""
        kind = int if whole else int | float
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            what = "a whole number" if whole else "a number"
            raise SpecError(f"{self.name}: {option} must be {what} from {low} to {high}, got {value!r}")

    def setup(self, space: Space, *, mode: Sequence[str], seed: int) -> None:
        """Take the space. Raises SpecError for several metrics, a function, and constraints that nothing meets."""
        if len(mode) > 1:
            raise SpecError(f"{self.name} optimizes a single metric; for several use tpe or nsgaii")
        self._encoding = Encoding(space)
        if space.constraints:
            space.check(seed)
        self._space, self._seed = space, seed
        self._history = History(self._encoding, mode[0])
        self._grid, self._places = space.grid_points(), Places()
        self._tried = Tried(space, avoid=self.duplicates == "avoid")
        self._enough = len(self._encoding) + 1
        number = 0
        for configs in self.warm:
            for score, config in zip(normal_scores(np.arange(len(configs), dtype=np.float64)), configs, strict=True):
                number -= 1
                self._history.add_earlier(number, config, float(score))

    def learn_from(self, other: Learner) -> None:
        """Know what another learner of the same space knows, from now on: it is told, and this one only suggests."""
        self._history, self._tried = other._history, other._tried

    def ask(self, number: int) -> Suggestion | None:
        """Suggest the config of trial `number`; `model` in its note says that it is not drawn at random.

        None where duplicates are avoided and nothing is left.
        """
        generator = rng(self._seed, number)
        fixed = self._grid.point(self._places.point(number) % self._grid.total)
        place = self._places.point(number)
        if place < len(self.warm) and self.allowed(best := dict(self.warm[place][0])):
            self._history.add(number, best)
            self._tried.add(best)
            return Suggestion(best, {"warm": True})
        at_random = generator.random() < self.random_fraction
        found = None if at_random else self.suggest(generator, fixed)
        config = found or self._drawn_at_random(generator, fixed)
        if config is None:
            self.exhausted = self._tried.all_tried
            return None
        self._history.add(number, config)
        self._tried.add(config)
        return Suggestion(config, {"model": True} if found else {})

    def ask_batch(self, numbers: Sequence[int]) -> Iterator[Suggestion | None]:
        """Suggest the configs of several trials, one after the other."""
        return map(self.ask, numbers)

    def observe(self, number: int, config: Mapping[str, Any]) -> None:
        """Hear of a trial with a config of its own. SpecError when it is not in the space."""
        self._places.observe(number)
        self._history.add(number, config)
        self._tried.add(config)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Hear how a trial ended, or stands while it is paused or runs."""
        self._history.tell(number, outcome)

    def restore(self, past: Sequence[PastTrial]) -> None:
        """Hear the whole past."""
        for trial in past:
            if trial.memo is None:
                self._places.observe(trial.number)
            self._history.add(trial.number, trial.config)
            self._tried.add(trial.config)
            if trial.outcome is not None:
                self._history.tell(trial.number, trial.outcome)

    def allowed(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a config meets the constraints, and was not tried where duplicates are avoided."""
        return self._tried.is_new(config) and self._space.satisfied(config)

    def _drawn_at_random(self, generator: np.random.Generator, fixed: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            config = self._space.sample(generator, fixed)
        except SpecError:  # the constraints forbid this point of the grid
            config = self._space.sample(generator)
        return config if self._tried.is_new(config) else self._tried.another(generator, fixed)

    @abstractmethod
    def suggest(self, generator: np.random.Generator, fixed: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a config with `fixed` values; None where too little is known, or all break the constraints."""

    @abstractmethod
    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which the registry builds it again."""
