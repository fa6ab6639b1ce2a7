"""What an inner step of a gang costs, by formula: for the simulated backend, and for planning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of an inner step of `workers` workers: computing, and the strategy's bytes over links in parallel.

    `strategies` are classes by name, as of a DistributedTrainable; `parameters` counts the model's scalars. A worker
    computes for `compute_s` and sends at `bytes_per_s`; `steps` inner steps are one step of the trial.

    `updates` are the inner steps of a training, which periods below 1 are shares of (default: the config's own
    `updates`); `logits` the numbers in the logits of a worker's batch (examples times classes), for strategies that
    exchange predictions; `hosts` the host of each worker, by rank, for those that go by hosts. Raises SpecError
    where a config needs one of them and it is not known.

        SimulatedBackend(curve, step_time=StepCost(STRATEGIES, parameters=10**6, workers=8, updates=5000))
    """

    strategies: Mapping[str, Any]
    parameters: int
    workers: int | Callable[[Mapping[str, Any]], int] = 2
    compute_s: float = 0.01
    bytes_per_s: float = 1e9
    steps: int = 1
    updates: int | None = None
    logits: int | None = None
    hosts: Sequence[str] | Callable[[Mapping[str, Any]], Sequence[str]] | None = None

    def bytes_per_step(self, config: Mapping[str, Any]) -> float:
        """Return the bytes over all links per inner step for the strategy of a config."""
        chosen = config.get("strategy", "independent")
        options = dict(chosen) if isinstance(chosen, Mapping) else {"name": chosen}
        kind = self.strategies[options.pop("name")]
        more: dict[str, Any] = {"logits": self.logits}
        more["updates"] = config.get("updates") if self.updates is None else self.updates
        more["hosts"] = self.hosts(config) if callable(self.hosts) else self.hosts
        given = {**kind.DEFAULTS, **options, **{name: value for name, value in more.items() if value is not None}}
        return float(kind.bytes_per_step(self.parameters, self._workers(config), given))

    def __call__(self, config: Mapping[str, Any], step: int) -> float:
        """Return the seconds of a trial's step, for `SimulatedBackend(step_time=...)`."""
        each = self.bytes_per_step(config) / self._workers(config)
        return self.steps * (self.compute_s + each / self.bytes_per_s)

    def _workers(self, config: Mapping[str, Any]) -> int:
        return self.workers(config) if callable(self.workers) else self.workers
