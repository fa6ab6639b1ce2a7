"""What the formulas of `bytes_per_step` need to know beside a strategy's options; `StepCost` passes it on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_platform.distributed.strategy import option_period
from tune_platform.errors import SpecError

#: What can be asked for, in words.
_MEANING = {
    "updates": "the inner steps of the training, as its period depends on it",
    "logits": "the numbers in the logits of a worker's batch",
}


def known(strategy: str, options: Mapping[str, Any], name: str) -> float:
    """Return `updates` or `logits` from the options. Raises SpecError where it is not among them."""
    if options.get(name) is None:
        raise SpecError(
            f"strategy {strategy!r}: its bytes per step depend on {name!r}, {_MEANING[name]}: give {name}, in the "
            f"options or as StepCost(..., {name}=...)"
        )
    return float(options[name])


def known_hosts(strategy: str, options: Mapping[str, Any], workers: int) -> list[Any]:
    """Return `hosts` of the options, one for each worker by rank. Raises SpecError where they are not known."""
    hosts = options.get("hosts")
    if hosts is None or len(hosts) != workers:
        raise SpecError(
            f"strategy {strategy!r}: its bytes per step depend on which workers share a host: give hosts, one for each "
            f"of the {workers} workers, in the options or as StepCost(..., hosts=...), got {hosts!r}"
        )
    return list(hosts)


def steps_of(strategy: str, options: Mapping[str, Any]) -> int:
    """Return the period in inner steps; a share is one of `updates` in the options, as the training rounds it."""
    option_period(strategy, options, "period", 1)
    if options["period"] >= 1:
        return int(options["period"])
    return option_period(strategy, options, "period", int(known(strategy, options, "updates")))
