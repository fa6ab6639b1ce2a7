"""Ray Tune's search algorithms as ours. Ray Tune is not imported: its objects say what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tune_platform.errors import SpecError

#: Ours with the same model, or the nearest, for those whose library is not used.
_BY_NAME = {"HyperOptSearch": "tpe", "TuneBOHB": "tpe"}


class Search(NamedTuple):
    """What a search algorithm says: `searcher` is ours; the rest is what was given beside it, if anything."""

    searcher: Any = "random"
    start_points: Sequence[Mapping[str, Any]] = ()
    seed: int | None = None
    space: Any = None
    metric: Any = None
    mode: Any = None
    max_concurrent: int | None = None


def search_of(given: Any) -> Search:
    """Return our searcher for one of Ray Tune's; random for None, one of ours (or its name) as it is.

    Raises SpecError, with what to do instead, for one that has no counterpart.
    """
    if given is None:
        return Search()
    kind = type(given)
    if isinstance(given, str) or not kind.__module__.startswith("ray.tune"):
        return Search(given)
    if kind.__name__ == "ConcurrencyLimiter":
        return search_of(given.searcher)._replace(max_concurrent=given.max_concurrent)
    points = tuple(getattr(given, "_points_to_evaluate", None) or ())
    if kind.__name__ == "BasicVariantGenerator":
        return Search(start_points=points, max_concurrent=given.max_concurrent or None)
    asked = Search(
        start_points=points, space=getattr(given, "_space", None), metric=given._metric, mode=given._mode,
        seed=getattr(given, "_seed", None),
    )  # fmt: skip
    if kind.__name__ == "OptunaSearch":
        if given._evaluated_rewards:
            raise SpecError("search_alg: evaluated_rewards are not taken; give the points alone: they are run")
        sampler = given._sampler
        if sampler is None or type(sampler).__name__ == "TPESampler":
            return asked._replace(searcher="tpe")
        return asked._replace(searcher={"name": "optuna", "sampler": sampler})
    if kind.__name__ in _BY_NAME:
        return asked._replace(searcher=_BY_NAME[kind.__name__])
    raise SpecError(
        f"search_alg: Ray Tune's {kind.__name__} has no counterpart here; those that have: BasicVariantGenerator, "
        f"ConcurrencyLimiter, OptunaSearch, {', '.join(_BY_NAME)}. Else give one of ours by name: search_alg='tpe' "
        "(also gp, cmaes, nsgaii, qmc, random)"
    )
