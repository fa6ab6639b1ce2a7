"""What a person may ask of a search that runs; anybody can write into its inbox, so that anything may stand there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tune_platform.errors import did_you_mean
from tune_platform.protocol.reports import finite

ACTIONS = ("stop", "cancel", "pause", "unpause", "enqueue", "extend", "tag")
#: What a person may add to; a `deadline`, in seconds since the epoch, takes the place of the one before.
EXTENSIONS = ("trials", "time", "gpu_hours", "cost", "deadline")
#: Trials that a search can be extended by at most: what a column of whole numbers holds.
_MOST = 2**63 - 1
#: Letters of a tag at most, and tags of an experiment.
TAG_LETTERS, TAGS = 40, 20


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
    if action == "tag":
        return _tagging(data)
    return _extension(data) if action == "extend" else ""


def _tagging(data: Mapping[str, Any]) -> str:
    for key in ("add", "remove"):
        tags = data.get(key, [])
        if not isinstance(tags, (list, tuple)) or not all(isinstance(each, str) for each in tags):
            return f"tag: {key} is {str(tags)[:60]!r}; a list of texts is wanted"
        for each in tags:
            if key == "add" and (not 0 < len(each) <= TAG_LETTERS or each != each.strip() or not each.isprintable()):
                return f"tag: {each[:60]!r} is no tag; 1 to {TAG_LETTERS} letters on one line are wanted"
        if len(tags) > TAGS:
            return f"tag: {len(tags)} tags are given to {key}; at most {TAGS} are allowed"
    return ""


def tagged(requests: Iterable[Any]) -> tuple[str, ...]:
    """Return the tags of an experiment, sorted, by the data of all requests for tags, in order.

    They need no driver: who reads the experiment folds them. What `refusal` refuses is left out; of more than TAGS the
    first ones stay.
    """
    found: dict[str, None] = {}
    for data in requests:
        if not refusal("tag", None, data):
            for each in data.get("remove", ()):
                found.pop(each, None)
            for each in data.get("add", ()):
                if len(found) < TAGS:
                    found[each] = None
    return tuple(sorted(found))


def _extension(data: Mapping[str, Any]) -> str:
    for key, value in data.items():
        if key not in EXTENSIONS:
            return f"extend: unknown {key!r}{did_you_mean(str(key), EXTENSIONS)}; allowed: {', '.join(EXTENSIONS)}"
        if key == "trials":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
                return f"extend: trials is {str(value)[:60]!r}; a whole number from 0 on is wanted"
        elif isinstance(value, bool) or (finite(value) or 0.0) < 0 or finite(value) is None:
            what = {"time": "seconds", "deadline": "seconds since 1970", "gpu_hours": "hours"}.get(key, "the currency")
            return f"extend: {key} is {str(value)[:60]!r}; a number of {what} from 0 on is wanted"
    return ""
