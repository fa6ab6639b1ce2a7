"""Ray Tune's search algorithms as ours, or as they are. Ray Tune is not imported: its objects say what they are."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tune_platform.errors import SpecError
from tune_platform.ray_tune.nesting import flat, nested
from tune_platform.space import Space

#: Random search as Ray Tune has it: its grids come in another order.
_RANDOM = {"name": "random", "grid_order": "ray"}


class Search(NamedTuple):
    """What a search algorithm says: `searcher` is ours or one to be wrapped, the rest was given beside it."""

    searcher: Any = _RANDOM
    start_points: Sequence[Mapping[str, Any]] = ()
    seed: int | None = None
    space: Any = None
    metric: Any = None
    mode: Any = None
    max_concurrent: int | None = None


def search_of(given: Any) -> Search:
    """Return our searcher for one of Ray Tune's where it is the same; random for None; any other as it is.

    What has no counterpart is wrapped when the spec is built: see `their_searcher`. Raises SpecError for evaluated
    points of Optuna's.
    """
    if given is None:
        return Search()
    kind = type(given)
    if isinstance(given, str) or not any(base.__module__.startswith("ray.tune") for base in kind.__mro__):
        return Search(given)
    if kind.__name__ == "ConcurrencyLimiter":
        if given.batch:
            raise SpecError("search_alg: ConcurrencyLimiter(batch=True) is not supported: max_concurrent alone is")
        return search_of(given.searcher)._replace(max_concurrent=given.max_concurrent)
    if kind.__name__ == "BasicVariantGenerator":
        constant = {"constant_grid_search": True} if given._constant_grid_search else {}
        return Search(
            {**_RANDOM, **constant}, tuple(given._points_to_evaluate or ()), _seed_of(given._random_state),
            max_concurrent=given.max_concurrent or None,
        )  # fmt: skip
    metric, mode = getattr(given, "_metric", None), getattr(given, "_mode", None)
    if kind.__name__ != "OptunaSearch":
        return Search(given, metric=metric, mode=mode)
    if given._evaluated_rewards:
        raise SpecError("search_alg: evaluated_rewards are not taken; give the points alone: they are run")
    sampler = given._sampler
    plain = sampler is None or type(sampler).__name__ == "TPESampler"
    return Search(
        "tpe" if plain else {"name": "optuna", "sampler": sampler}, tuple(given._points_to_evaluate or ()),
        getattr(given, "_seed", None), given._space, metric, mode,
    )  # fmt: skip


def with_grids(points: Sequence[Mapping[str, Any]], space: Any) -> list[Mapping[str, Any]]:
    """Return the points to begin with; one that leaves parameters of the grid out comes once for each of their values.

    So Ray Tune has it.
    """
    if not points or not isinstance(space, Mapping):
        return list(points)
    grid = Space(space).grid_points(by_name=True)
    found: list[Mapping[str, Any]] = []
    for point in points:
        given, mine = flat(point), dict[str, Mapping[str, Any]]()
        for number in range(grid.total):
            rest = {name: value for name, value in grid.point(number).items() if name not in given}
            mine.setdefault(repr(rest), nested({**given, **rest}))
        found += mine.values()
    return found


def _seed_of(state: Any) -> int | None:
    """Return a seed for a state of NumPy's, which is left as it is; None where there is none."""
    if getattr(state, "_rng", None) is None:
        return None
    return int(copy.deepcopy(state).integers(2**31))
