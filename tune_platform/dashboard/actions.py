"""What the page asks of a running search: rows of the same inbox that the command line writes to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tune_platform.errors import ExperimentError
from tune_platform.space import Space
from tune_platform.store.sql import open_store

#: The word on the button by the action of the inbox.
ACTIONS = {
    "stop": "Stop",
    "cancel": "Stop at once",
    "pause": "Pause",
    "unpause": "Go on",
    "enqueue": "Add a trial",
    "extend": "Extend the budget",
}
_ENDED = ("COMPLETED", "STOPPED", "FAILED")


def ask(storage: str, name: str, action: str, trial: int | None, data: Mapping[str, Any] | None = None) -> str:
    """Leave a request for the driver; return what is said to the person. Raises ExperimentError and SpecError."""
    if action not in ACTIONS:
        raise ExperimentError(f"there is no action {action!r}; allowed: {', '.join(ACTIONS)}")
    if trial is not None and action == "stop":
        action = "cancel"  # one trial has no others to wait for
    with open_store(storage) as store, store.open(name, exact=True) as experiment:
        row = experiment.row()
        if row.status != "running":
            raise ExperimentError(f"{name} is not running: {row.status}. To go on: tune-platform resume {name}")
        if trial is not None and (status := experiment.trial(trial).status) in _ENDED:
            raise ExperimentError(f"trial {trial} has ended already: {status.lower()}")
        if action == "enqueue":
            _check(experiment.spec, (data or {}).get("config", {}))
        by = {} if action == "extend" else {"by": "dashboard"}  # of these it takes no more than it knows
        number = experiment.request(action, trial, {**(data or {}), **by}, time.time())
    of = "the experiment" if trial is None else f"trial {trial}"
    return f"Asked ({number}): {ACTIONS[action].lower()}, {of}"


def asked(storage: str, name: str) -> list[dict[str, Any]]:
    """Return all requests that anybody left, newest first: the audit trail."""
    with open_store(storage) as store, store.open(name, readonly=True, exact=True) as experiment:
        found = experiment.requests(0)
    return [
        {"id": each.id, "time": each.time, "action": each.action, "trial": each.trial, "data": dict(each.data)}
        for each in reversed(found)
    ]


def _check(spec: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    rules = [rule for rule in spec.get("constraints", ()) if isinstance(rule, str)]
    Space.from_dict(spec.get("space", {}), rules).complete(given, np.random.default_rng(0))
