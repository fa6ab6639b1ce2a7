"""Random search, with Ray Tune's grids: `grid_search` parameters cycle through their cross product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome, PastTrial, Suggestion
from tune_platform.protocol.seeds import rng
from tune_platform.searchers._places import Places
from tune_platform.searchers._tried import Tried
from tune_platform.space import Enumeration, Space

#: how many points of the grid in a row may be ruled out by the constraints
_SHIFTS = 1000
_ORDERS = ("last", "ray")
#: The options where nothing is said.
_PLAIN = {"grid_order": "last", "constant_grid_search": False}


class RandomSearcher:
    """Samples every parameter independently; the n-th suggestion takes point n of the grid, round and round.

    Ray Tune's `BasicVariantGenerator`: with `num_samples` samples there are `num_samples * multiplier`
    trials, drawn one by one and never listed. Each draw depends on (seed, trial number) alone, so it is exact
    on resume. It learns nothing: cost and memory per suggestion do not grow (8 bytes for each start point).

    `grid_order` "last": the last parameter of the grid changes fastest. "ray", as in Ray Tune: they are sorted by name,
    and the first changes fastest. With `constant_grid_search`, as in Ray Tune, all points of the grid in one round get
    the same draws of the other parameters.
    """

    synchronous = True
    lookahead: int | None = None
    longer_choices = True
    duplicates = "allow"  #: `avoid`: no config is suggested that was tried; set before `setup`
    exhausted = ""  #: why there is nothing more to try

    def __init__(self, *, grid_order: str = "last", constant_grid_search: bool = False) -> None:
        if grid_order not in _ORDERS:
            raise SpecError(f"grid_order: got {grid_order!r}; allowed: {', '.join(_ORDERS)}")
        self._options = {"grid_order": grid_order, "constant_grid_search": constant_grid_search}

    def setup(self, space: Space, *, mode: Sequence[str], seed: int) -> None:
        """Take the space and the seed. SpecError when no draw meets the constraints."""
        self._space, self._seed = space, seed
        self._grid: Enumeration = space.grid_points(by_name=self._options["grid_order"] == "ray")
        self._places = Places()
        self._tried = Tried(space, avoid=self.duplicates == "avoid")
        if space.constraints:
            space.check(seed)

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name by which the registry builds it again."""
        return {"name": "random", **{name: value for name, value in self._options.items() if value != _PLAIN[name]}}

    @property
    def multiplier(self) -> int:
        """The number of trials for each sample: the size of the grid, 1 without `grid_search` parameters."""
        return self._grid.total

    def ask(self, number: int) -> Suggestion | None:
        """Suggest the config of trial `number`. SpecError when no point of the grid can meet the constraints.

        Where the constraints rule a point of the grid out, its turn goes to the next one. None where duplicates are
        avoided and nothing is left.
        """
        point, total = self._places.point(number), self._grid.total
        generator = rng(self._seed, point // total if self._options["constant_grid_search"] else number)
        problem: SpecError | None = None
        for shift in range(min(total, _SHIFTS) if self._space.constraints else 1):
            fixed = self._grid.point((point + shift) % total)
            try:
                drawn = self._space.sample(generator, fixed)
            except SpecError as error:
                problem = error
                continue
            config = drawn if self._tried.is_new(drawn) else self._tried.another(generator, fixed)
            if config is None:
                self.exhausted = self._tried.all_tried
                return None
            self._tried.add(config)
            return Suggestion(config, {})
        assert problem is not None
        raise problem

    def ask_batch(self, numbers: Sequence[int]) -> Iterator[Suggestion | None]:
        """Suggest the configs of several trials, one after the other."""
        return map(self.ask, numbers)

    def observe(self, number: int, config: Mapping[str, Any]) -> None:
        """Hear of a trial with a config of its own: it does not take a point of the grid."""
        self._places.observe(number)
        self._tried.add(config)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Hear how a trial ended: nothing is learned from it."""

    def restore(self, past: Sequence[PastTrial]) -> None:
        """Hear the past: which trials had configs of their own (those without a memo)."""
        for trial in past:
            self._tried.add(trial.config)
            if trial.memo is None:
                self._places.observe(trial.number)

    def state(self) -> dict[str, Any]:
        """Return the numbers of the trials that had configs of their own, and what was tried where that matters."""
        return {"observed": self._places.observed, "tried": self._tried.state()}

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take what `state` returned."""
        self._places = Places(data["observed"])
        self._tried.load_state(data.get("tried", []))
