"""What the page asks of a running search: rows of the same inbox that the command line writes to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from tune_platform.dashboard.source import Source
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.plots.crashes import groups
from tune_platform.protocol.configs import shown
from tune_platform.protocol.requests import refusal
from tune_platform.results.tables import flatten
from tune_platform.space import Space
from tune_platform.spec.values import moment, seconds
from tune_platform.store.sql import open_store

#: The word on the button by the action of the inbox.
ACTIONS = {
    "stop": "Stop",
    "cancel": "Stop at once",
    "pause": "Pause",
    "unpause": "Go on",
    "enqueue": "Add a trial",
    "extend": "Extend the budget",
    "tag": "Tag",
}
#: Failed trials that are tried again at once, at most.
RETRIED = 100
_ENDED = ("COMPLETED", "STOPPED", "FAILED")


def ask(storage: str, name: str, action: str, trial: int | None, data: Mapping[str, Any] | None = None) -> str:
    """Leave a request for the driver; return what is said to the person. Raises ExperimentError and SpecError."""
    if action not in ACTIONS:
        raise ExperimentError(f"there is no action {action!r}; allowed: {', '.join(ACTIONS)}")
    if trial is not None and action == "stop":
        action = "cancel"  # one trial has no others to wait for
    with open_store(storage) as store, store.open(name, exact=True) as experiment:
        row = experiment.row()
        if row.status != "running" and action != "tag":
            raise ExperimentError(f"{name} is not running: {row.status}. To go on: tune-platform resume {name}")
        if trial is not None and (status := experiment.trial(trial).status) in _ENDED:
            raise ExperimentError(f"trial {trial} has ended already: {status.lower()}")
        if action == "enqueue":
            _check(experiment.spec, (data or {}).get("config", {}))
        if problem := refusal(action, trial, data or {}):
            raise SpecError(problem)
        by = {} if action == "extend" else {"by": "dashboard"}  # of these it takes no more than it knows
        number = experiment.request(action, trial, {**(data or {}), **by}, time.time())
    of = "the experiment" if trial is None else f"trial {trial}"
    return f"Asked ({number}): {ACTIONS[action].lower()}, {of}"


def retry(source: Source, name: str, trial: int | None, *, group: bool = False) -> str:
    """Ask for new trials with the configs of failed ones; return what is said to the person.

    Of the failed `trial`; with `group`, of all that failed of the same cause; of all failed ones for None. Raises
    ExperimentError where there are none, or more than RETRIED.
    """
    source.check(name)
    view = source.picture(name).view
    failed = [list(each.trials) for each in groups(view)]
    if trial is None:
        chosen = [number for members in failed for number in members]
    else:
        mine = next((members for members in failed if trial in members), [])
        chosen = mine if group else [number for number in mine if number == trial]
    if not chosen:
        raise ExperimentError("no trial has failed" if trial is None else f"trial {trial} has not failed")
    if len(chosen) > RETRIED:
        raise ExperimentError(f"{len(chosen)} trials have failed; at most {RETRIED} are tried again at once")
    results = source.results(name)
    for number in chosen:
        config = flatten(shown(dict(results.trial(number).config)))
        given = {key: value for key, value in config.items() if key in view.space}
        ask(source.storage, name, "enqueue", None, {"config": given, "retries": number})
    return f"Asked: {len(chosen)} new {'trial' if len(chosen) == 1 else 'trials'} with the configs of failed ones"


def tag(storage: str, name: str, tags: Sequence[str]) -> str:
    """Give an experiment these tags and no others; return what is said to the person. Raises SpecError."""
    with open_store(storage) as store:
        before = store.row(name).tags
    wanted = list(dict.fromkeys(each.strip() for each in tags))
    change = {"add": [t for t in wanted if t not in before], "remove": [t for t in before if t not in wanted]}
    if not change["add"] and not change["remove"]:
        return "The tags are as they were."
    ask(storage, name, "tag", None, change)
    return f"Tags: {', '.join(sorted(wanted)) or 'none'}"


def extension(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the fields of the budget say, as a request has it. Raises SpecError; what is empty is left out."""
    found: dict[str, Any] = {}
    for name, text in given.items():
        words = str(text or "").strip()
        if not words:
            continue
        try:
            if name == "trials":
                found[name] = int(words)
            elif name == "deadline":
                found[name] = datetime.fromisoformat(moment(words)).timestamp()
            else:
                found[name] = seconds(words) if name == "time" else float(words)
        except (SpecError, ValueError) as error:
            why = str(error) if isinstance(error, SpecError) else f"got {words[:40]!r}; a number is wanted"
            raise SpecError(f"{name.replace('_', ' ')}: {why}") from None
    return found


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
