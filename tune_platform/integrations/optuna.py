"""An Optuna objective as a trainable: `optuna_objective(objective)`. Optuna itself is not needed for it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tune_platform.protocol.seeds import rng
from tune_platform.space.define_by_run import SpaceTrial, flatten_names
from tune_platform.space.domains import Domain
from tune_platform.trainable import get_context, report

#: The metric that an objective's value is reported under.
VALUE = "value"


def optuna_objective(objective: Callable[[Any], Any], metrics: str | Sequence[str] = VALUE) -> _Objective:
    """Return `objective(trial)`, written for `study.optimize`, as a trainable that reports `metrics`.

    A suggestion whose name the config has gets that value: give the same names in `param_space`, and the searcher
    learns. Any other is drawn at random from the trial's seed. All are reported beside the value, as `params/NAME`, and
    user attributes as `user_attrs/NAME`. `trial.report(value, step)` is a report, after which the scheduler may end the
    trial; `trial.should_prune()` is then never true. A TrialPruned that the objective raises itself ends the trial with
    its last report, or with NaN where there is none (`on_bad_metric="prune"` takes that as the worst).
    """
    return _Objective(objective, (metrics,) if isinstance(metrics, str) else tuple(metrics))


class _Objective:
    def __init__(self, objective: Callable[[Any], Any], metrics: tuple[str, ...]) -> None:
        self._objective, self._metrics = objective, metrics
        functools.update_wrapper(self, objective)
        del self.__dict__["__wrapped__"]  # its signature is another

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        trial = ObjectiveTrial(config, self._metrics[0])
        try:
            value = self._objective(trial)
        except Exception as error:
            if type(error).__name__ != "TrialPruned":
                raise
            value = [trial.last] * len(self._metrics)
        values = list(value) if isinstance(value, Sequence) else [value]
        if len(values) != len(self._metrics):
            raise ValueError(
                f"the objective returned {len(values)} value(s) for the metrics {', '.join(self._metrics)}: "
                "name them all, as optuna_objective(objective, metrics=[...])"
            )
        return {**trial.beside(), **dict(zip(self._metrics, map(float, values), strict=True))}


class ObjectiveTrial(SpaceTrial):
    """What the objective is given in place of `optuna.Trial`."""

    def __init__(self, config: Mapping[str, Any], metric: str) -> None:
        super().__init__(self._value)
        self._config, self._metric = flatten_names(config), metric
        self.user_attrs: dict[str, Any] = {}
        self.last = math.nan  #: the value that was reported last

    @property
    def number(self) -> int:
        """The trial's number."""
        return get_context().trial

    def report(self, value: float, step: int) -> None:
        """Report an intermediate value. Raises TrialStopped, which unwinds the objective, where the trial ends."""
        self.last = float(value)
        report({**self.beside(), self._metric: self.last, "trial_step": step})

    def should_prune(self) -> bool:
        """Return False: a trial that ends does so in `report`."""
        return False

    def set_user_attr(self, key: str, value: Any) -> None:
        """Keep something to be reported with the next value."""
        self.user_attrs[key] = value

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """As `suggest_float`: Optuna's older name."""
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """As `suggest_float(log=True)`: Optuna's older name."""
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """As `suggest_float(step=q)`: Optuna's older name."""
        return self.suggest_float(name, low, high, step=q)

    def beside(self) -> dict[str, Any]:
        """Return the parameters and user attributes so far, by the names that they are reported under."""
        params = {f"params/{name}": value for name, value in self.params.items()}
        return {**params, **{f"user_attrs/{name}": value for name, value in self.user_attrs.items()}}

    def _value(self, name: str, domain: Domain) -> Any:
        if name not in self._config:
            return domain.sample(rng(get_context().seed, 0, f"suggest/{name}"))
        value = self._config[name]
        if not domain.contains(value):
            raise ValueError(f"{name}={value!r}, from param_space, is not in {domain}, which the objective asks for")
        return domain.cast(value)
