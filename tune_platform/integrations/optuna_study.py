"""Writes an experiment as a study of an Optuna storage, which optuna-dashboard opens: `export --to optuna URL`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tune_platform.errors import ExperimentError
from tune_platform.protocol.configs import shown
from tune_platform.results import flatten

if TYPE_CHECKING:
    from tune_platform.results import Results, TrialResult

_SCALARS = (bool, int, float, str, type(None))


def export_study(results: Results, url: str) -> int:
    """Write the trials that have ended as a new study of the experiment's name; return how many there were.

    Reports become intermediate values (of a study that was imported, those that it had), a trial that was stopped is
    PRUNED, one without a value FAIL. The ranges are those of the spec; where it has none they are those that were seen.
    Raises ExperimentError where the storage has a study of this name, or cannot be written.
    """
    import optuna

    directions: list[Any] = ["maximize" if mode == "max" else "minimize" for mode in results.modes]
    trials = [trial for trial in results.trials() if trial.status in ("COMPLETED", "STOPPED", "FAILED")]
    configs = [_plain(flatten(shown(trial.config))) for trial in trials]
    ranges = _distributions(results.spec.get("space", {}), configs)
    curves = _intermediates(results)
    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # that a study was created is told by whoever asked for it
    try:
        study = optuna.create_study(storage=url, study_name=results.name, directions=directions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(results.metrics))
        for trial, config in zip(trials, configs, strict=True):
            study.add_trial(_frozen(results, trial, config, ranges, curves.get(trial.number, [])))
    except optuna.exceptions.DuplicatedStudyError:
        raise ExperimentError(
            f"the storage has a study {results.name!r} already: delete it there, or take another"
        ) from None
    except Exception as error:
        raise ExperimentError(f"the Optuna storage was not written: {type(error).__name__}: {error}") from error
    finally:
        optuna.logging.set_verbosity(said)
    return len(trials)


def _frozen(
    results: Results,
    trial: TrialResult,
    config: Mapping[str, Any],
    ranges: Mapping[str, Any],
    curve: Sequence[tuple[int, float]],
) -> Any:
    from optuna.trial import FrozenTrial, TrialState

    many = len(results.metrics) > 1
    last: list[Any] = [trial.last.get(name) for name in results.metrics]
    values: list[Any] = last if many else [trial.best]
    whole = all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    state = TrialState.FAIL if trial.status == "FAILED" or not whole else TrialState.COMPLETE
    if trial.status == "STOPPED":
        state = TrialState.PRUNED
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=state,
        value=None,
        values=values if state is TrialState.COMPLETE else None,
        datetime_start=_naive(trial.started or trial.created),
        datetime_complete=_naive(trial.ended or trial.started or trial.created),
        params={name: value for name, value in config.items() if name in ranges},
        distributions={name: ranges[name] for name in config if name in ranges},
        user_attrs={"tune_platform_trial": trial.number, "reason": trial.reason},
        system_attrs={},
        intermediate_values={} if many else {step: value for step, value in curve if math.isfinite(value)},
    )


def _intermediates(results: Results) -> dict[int, list[tuple[int, float]]]:
    """Return the steps and the values of each trial, by its number."""
    values = results.curves("intermediate_value")  # so called by the import of a study, with Optuna's own steps
    if not values:
        return results.curves()
    steps = results.curves("trial_step")
    return {
        number: [(int(step), value) for (_, step), (_, value) in zip(steps[number], curve, strict=True)]
        for number, curve in values.items()
    }


def _naive(time: datetime) -> datetime:
    """Optuna's times are local and do not say so."""
    return time.astimezone().replace(tzinfo=None)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, _SCALARS) else str(value) for name, value in config.items()}


def _distributions(space: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return Optuna's distribution of each parameter: that of the spec, where all values lie in it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    domains = _domains(space)
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for config in configs for name in config):
        values = [config[name] for config in configs if name in config]
        told = domains.get(name, {})
        kind, low, high = told.get("type"), told.get("low", math.inf), told.get("high", -math.inf)
        if all(type(value) is int for value in values):
            ends = min([*values, low]), max([*values, high])
            found[name] = IntDistribution(int(ends[0]), int(ends[1]), log=bool(told.get("log")) and ends[0] >= 1)
        elif all(type(value) in (int, float) and math.isfinite(value) for value in values):
            ends = min([*values, low]), max([*values, high])
            log = bool(told.get("log")) and ends[0] > 0
            found[name] = FloatDistribution(float(ends[0]), float(ends[1]), log=log)
        else:
            choices = [_choice(value) for value in told.get("values", ())] if kind == "choice" else []
            found[name] = CategoricalDistribution([*choices, *dict.fromkeys(v for v in values if v not in choices)])
    return found


def _choice(value: Any) -> Any:
    return value if isinstance(value, _SCALARS) else str(value)


def _domains(space: Mapping[str, Any], prefix: str = "") -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for name, value in space.items():
        if isinstance(value, Mapping) and isinstance(value.get("type"), str):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            found.update(_domains(value, f"{prefix}{name}/"))
    return found
