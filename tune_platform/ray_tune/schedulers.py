"""Ray Tune's scheduler objects as ours, where the rule is the same. Ray Tune is not imported: they say what
they are.

Differences of the rules: Ray Tune's ASHA lets a trial go on that is at or above a percentile of its rung, interpolated
between two values; ours ranks, and keeps the best max(1, floor(n / eta)). Its bracket s = 0 is the only one by default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tune_platform.ray_tune.mutations import mutations_of
from tune_platform.schedulers import ASHA, PB2, PBT, AsyncHyperBand, HyperBand, MedianStopping

#: Ray Tune's names of what every report here has.
_STEP = "training_iteration"


def scheduler_of(given: Any) -> Any:
    """Return our scheduler for one of Ray Tune's where the rule is the same; FIFO for None; any other as it is.

    What has no counterpart is wrapped when the spec is built: see `their_scheduler`.
    """
    if given is None:
        return "fifo"
    kind = type(given)
    build = _BUILD.get(kind.__name__) if kind.__module__.startswith("ray.tune") else None
    return given if build is None else build(given)


def _resource(given: Any) -> str:
    return "step" if given._time_attr == _STEP else str(given._time_attr)


def _asha(given: Any) -> Any:
    brackets = given._brackets
    least = min(milestone for milestone, _ in brackets[0]._rungs)
    shared = {"resource": _resource(given), "min": least, "max": given._max_t, "eta": given._reduction_factor}
    return ASHA(**shared) if len(brackets) == 1 else AsyncHyperBand(brackets=len(brackets), **shared)


def _hyperband(given: Any) -> Any:
    return HyperBand(resource=_resource(given), max=given._max_t_attr, eta=given._eta)


def _median(given: Any) -> Any:
    return MedianStopping(
        resource=_resource(given),
        grace=given._grace_period,
        min_samples=given._min_samples_required,
        hard=given._hard_stop,
    )


def _population(given: Any) -> dict[str, Any]:
    return {
        "resource": _resource(given),
        "interval": given._perturbation_interval,
        "quantile": given._quantile_fraction,
        "burn_in": given._burn_in_period,
        "synchronous": given._synch,
    }


def _pbt(given: Any) -> Any:
    return PBT(
        mutations=mutations_of(given),
        resample=given._resample_probability,
        factors=list(given._perturbation_factors),
        explore=given._custom_explore_fn,
        **_population(given),
    )


def _pb2(given: Any) -> Any:
    return PB2(mutations=mutations_of(given), **_population(given))


_BUILD: Mapping[str, Callable[[Any], Any]] = {
    "FIFOScheduler": lambda given: "fifo",
    "AsyncHyperBandScheduler": _asha,
    "HyperBandScheduler": _hyperband,
    "HyperBandForBOHB": _hyperband,
    "MedianStoppingRule": _median,
    "PopulationBasedTraining": _pbt,
    "PB2": _pb2,
}
