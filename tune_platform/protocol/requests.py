"""What a person may ask of a search that runs; anybody can write into its inbox, so that anything may stand there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_platform.errors import did_you_mean
from tune_platform.protocol.reports import finite

ACTIONS = ("stop", "cancel", "pause", "unpause", "enqueue", "extend")
#: Trials that a search can be extended by at most: what a column of whole numbers holds.
_MOST = 2**63 - 1


def refusal(action: Any, trial: Any, data: Any) -> str:
    """Return why a request cannot be carried out, for people; empty where it can."""
    if action not in ACTIONS:
        return f"there is no request {action!r}{did_you_mean(str(action), ACTIONS)}; there are {', '.join(ACTIONS)}"
    if trial is not None and (isinstance(trial, bool) or not isinstance(trial, int)):
        return f"{action}: trial is {trial!r}; a whole number is wanted"
    if not isinstance(data, Mapping):
        return f"{action}: its data are {str(data)[:60]!r}; keys and values are wanted"
    if action == "enqueue" and not isinstance(data.get("config", {}), Mapping):
        return f"enqueue: config is {str(data['config'])[:60]!r}; keys and values are wanted"
    return _extension(data) if action == "extend" else ""


def _extension(data: Mapping[str, Any]) -> str:
    for key in data:
        if key not in ("trials", "time"):
            return f"extend: unknown {key!r}{did_you_mean(str(key), ('trials', 'time'))}; allowed: trials, time"
    trials, time = data.get("trials", 0), data.get("time", 0.0)
    if isinstance(trials, bool) or not isinstance(trials, int) or not 0 <= trials <= _MOST:
        return f"extend: trials is {str(trials)[:60]!r}; a whole number from 0 on is wanted"
    if isinstance(time, bool) or (finite(time) or 0.0) < 0 or finite(time) is None:
        return f"extend: time is {str(time)[:60]!r}; a number of seconds from 0 on is wanted"
    return ""
