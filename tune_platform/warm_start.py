"""`search.warm_start`: what a search learns of earlier experiments before it begins.

What is read is written into the new experiment's spec, so that a resumed search knows the same, whatever has become of
the earlier ones. Of a trial its config counts, and its rank among those of its experiment: completed ones come before
those that were stopped, these by how far they came, and then by the value. So experiments with other metrics, and on
other data, can be learned from (Salinas, Shen and Perrone, ICML 2020: quantiles of the values transfer, values do not).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tune_platform.errors import SpecError
from tune_platform.protocol.configs import to_json
from tune_platform.protocol.seeds import rng
from tune_platform.space import Space
from tune_platform.store.sql import SqlStore

if TYPE_CHECKING:
    from tune_platform.spec import SearchSpec
    from tune_platform.store.records import TrialRow

#: Trials that are taken of each experiment at most, and how many of these are the best; the others are of all ranks.
_MOST, _BEST = 200, 50


def form_with_warm_start(spec: SearchSpec, store: SqlStore) -> dict[str, Any]:
    """Return the spec's file form with what was read of earlier experiments in the place of their names.

    Raises ExperimentError where there is no experiment of a name, SpecError where nothing of it fits the space.
    """
    form: dict[str, Any] = spec.to_dict()
    if spec.warm_start and not isinstance(spec.warm_start, Mapping):
        form["search"]["warm_start"] = {name: _read(spec, store, name) for name in spec.warm_start}
    return form


def _read(spec: SearchSpec, store: SqlStore, name: str) -> dict[str, Any]:
    experiment = store.open(name, readonly=True)
    try:
        mode = experiment.spec.get("objective", {})
        mode = (mode[0] if isinstance(mode, list) else mode).get("mode", "min")
        trials = [trial for trial in experiment.trials() if trial.best is not None and math.isfinite(trial.best)]
    finally:
        experiment.close()
    sign = 1.0 if mode == "min" else -1.0
    trials.sort(key=lambda trial: _rank(trial, sign))
    if len(trials) > _MOST:
        others = np.linspace(_BEST, len(trials) - 1, _MOST - _BEST).astype(int)
        trials = [*trials[:_BEST], *(trials[index] for index in others)]
    configs, left_out = [], set()
    for trial in trials:
        config, unfit = fitted(spec.space, trial.config, rng(spec.seed, trial.trial, "warm start"))
        left_out |= unfit
        if config is not None:
            configs.append(to_json(config))
    if not configs:
        theirs = sorted({key for trial in trials for key in trial.config})
        mine = ", ".join(parameter.name for parameter in spec.space.parameters())
        raise SpecError(
            f"search.warm_start: nothing of {name!r} fits this space. It has {len(trials)} trials with a value, of "
            f"{', '.join(theirs) or 'no parameters'}; here there are {mine or 'no parameters'}"
        )
    return {"configs": configs, "left_out": sorted(left_out)}


def _rank(trial: TrialRow, sign: float) -> tuple[bool, int, float]:
    assert trial.best is not None
    completed = trial.status == "COMPLETED"
    return (not completed, 0 if completed else -trial.step, sign * trial.best)


def fitted(
    space: Space, config: Mapping[str, Any], generator: np.random.Generator
) -> tuple[dict[str, Any] | None, set[str]]:
    """Return a config of another space with what fits this one, completed at random, and the keys that do not fit.

    None in its place where nothing fits, or what fits breaks a constraint.
    """
    kept: dict[str, Any] = {}
    unfit: set[str] = set()
    for key, value in config.items():
        try:
            space.check_point({**kept, key: value})
        except SpecError:
            unfit.add(key)
        else:
            kept[key] = value
    names = {parameter.name.split(".")[0] for parameter in space.parameters()}
    if not names & kept.keys():
        return None, unfit
    try:
        found = space.complete(kept, generator)
    except SpecError:
        return None, unfit
    return (found if space.satisfied(found) else None), unfit
