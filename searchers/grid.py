"""Grid search: every point of a finite space, once in each pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tune_platform.errors import SearcherError
from tune_platform.protocol.searcher import Outcome, PastTrial, Suggestion
from tune_platform.searchers._places import Places
from tune_platform.space import Enumeration, Space

#: after so many points in a row that break a constraint, the search gives up with a message
_PATIENCE = 200_000


class GridSearcher:
    """Tries all points of a space of choices, grids, whole numbers and numbers with a step, each once in each pass.

    `passes` over the grid are made, one after the other: a spec's `num_samples`.
    The point is a function of the trial's number (without the start points), found by counting, so nothing
    is listed or remembered. Points that break a constraint are passed over; that makes asking out of order
    slow, for they have to be counted. The last parameter changes fastest.
    """

    synchronous = True
    lookahead: int | None = None
    passes = 1

    def setup(self, space: Space, *, mode: Sequence[str], seed: int) -> None:
        """Take the space; the seed is not needed. SpecError names a parameter with infinitely many values."""
        self._space = space
        self._grid: Enumeration = space.grid_points(everything=True)
        self._places = Places()
        self._cursor = (-1, -1)  # the last point suggested: its number among the allowed, and among all
        self._allowed: int | None = None  # how many there are in one pass, once that is known

    @property
    def total(self) -> int:
        """The number of points of the grid, before constraints; of one pass."""
        return self._grid.total

    def ask(self, number: int) -> Suggestion | None:
        """Suggest the next point; None after the last of the last pass.

        SearcherError after 200,000 points in a row that break a constraint.
        """
        index = self._index(self._places.point(number))
        return None if index is None else Suggestion(self._config(index), {"point": index})

    def _config(self, index: int) -> dict[str, Any]:
        values = self._grid.point(index)
        return self._space.build(lambda name, domain: values[name])

    def _index(self, place: int) -> int | None:
        """Return the number, among all points, of the allowed point that has number `place` over all passes."""
        if not self._space.constraints:
            return place % self._grid.total if place < self._grid.total * self.passes else None
        if self._allowed is None and (found := self._walk(place)) is not None:
            return found
        allowed = self._allowed or 0  # known once the walk has come to the end
        return self._walk(place % allowed) if place < allowed * self.passes else None

    def _walk(self, place: int) -> int | None:
        """Return the number, among all points, of the allowed point number `place` of one pass."""
        known, index = self._cursor
        if place == known:
            return index
        if place < known:
            known, index = -1, -1
        found = index
        while known < place:
            index += 1
            if index >= self._grid.total:
                self._allowed = known + 1
                return None
            if self._space.satisfied(self._config(index)):
                known, found = known + 1, index
            elif index - found > _PATIENCE:
                rules = " and ".join(repr(rule.text) for rule in self._space.constraints)
                raise SearcherError(
                    f"{_PATIENCE:,} grid points in a row break the constraints {rules}; use random search"
                )
        self._cursor = (place, index)
        return index

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name by which the registry builds it again."""
        return {"name": "grid"}

    def observe(self, number: int, config: Mapping[str, Any]) -> None:
        """Hear of a trial with a config of its own: it does not take a point, even if it equals one."""
        self._places.observe(number)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Hear how a trial ended: nothing is learned from it."""

    def restore(self, past: Sequence[PastTrial]) -> None:
        """Hear the past: which trials had configs of their own, and how far the grid had come."""
        for trial in past:
            if trial.memo is None:
                self._places.observe(trial.number)
        for trial in past if self.passes == 1 else ():  # else the count starts again with the next ask
            if trial.memo is not None:
                place, index = self._places.point(trial.number), int(trial.memo["point"])
                self._cursor = max(self._cursor, (place, index))

    def state(self) -> dict[str, Any]:
        """Return which trials had configs of their own, and how far the grid has come."""
        return {"observed": self._places.observed, "cursor": list(self._cursor)}

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take what `state` returned."""
        self._places = Places(data["observed"])
        place, index = data["cursor"]
        self._cursor = (int(place), int(index))
