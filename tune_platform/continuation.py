"""With what spec an experiment may go on: the one that it was started with, or one with more choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tune_platform.errors import ExperimentError, SpecError
from tune_platform.location import Location
from tune_platform.protocol.requests import EXTENSIONS, refusal
from tune_platform.protocol.text import choices_of

if TYPE_CHECKING:
    from tune_platform.spec import SearchSpec
    from tune_platform.store.sql import SqlExperiment


def check_same(spec: SearchSpec, experiment: SqlExperiment) -> Mapping[str, Sequence[Any]]:
    """Return the values that choices have now beside those that they had. ExperimentError for any other difference."""
    check_secrets(spec, experiment.name)
    differences = spec.differences(experiment.spec)
    keys = {difference.partition(":")[0] for difference in differences}
    choices = spec.added_choices(experiment.spec)
    if choices and all(key.startswith("space.") for key in keys):
        _check_growth(spec, experiment.name, choices)
        return choices
    limits = ("budget.trials", "budget.num_samples", "budget.time", "budget.deadline", "budget.gpu_hours")
    if keys and all(key in limits or key.startswith("budget.cost") for key in keys):
        raise ExperimentError(
            f"experiment {experiment.name!r} was started with another budget ({'; '.join(differences)}). To add to "
            f'it, say 10 trials, pass the same spec and extend={{"trials": 10}} (or {", ".join(EXTENSIONS[1:])}) to '
            f"resume, or: tune-platform resume {experiment.name} --extend trials=10"
        )
    if keys and all(key.startswith("space.") for key in keys):
        raise ExperimentError(
            f"experiment {experiment.name!r} was started with another space ({'; '.join(differences)}). What a "
            "searcher has learned holds for its own space, in which choices alone may get more values, at the end of "
            "their lists: resume it with that, or begin another search, under another name, with "
            f'start_points=[trial.config for trial in load("{experiment.name}").trials()[:5]]'
        )
    if differences:
        raise ExperimentError(
            f"experiment {experiment.name!r} was started with another spec ({'; '.join(differences)}); resume it with "
            "the same one, or choose another name"
        )
    return {}


def extension(more: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be added to the budgets, as a request has it. Raises SpecError for what cannot be.

    `time` may be text such as "1h", and `deadline`, which sets another one, a date with a time.
    """
    from tune_platform.spec.values import moment, number, seconds

    data: dict[str, Any] = {}
    for key, value in more.items():
        try:
            if key == "deadline":
                data[key] = datetime.fromisoformat(moment(value)).timestamp()
            else:
                data[key] = value if key == "trials" else seconds(value) if key == "time" else number(value)
        except SpecError as error:
            raise SpecError(f"extend {key}: {error}") from None
    if problem := refusal("extend", None, data):
        raise SpecError(problem)
    return data


def check_secrets(spec: SearchSpec, name: str) -> None:
    """Raise ExperimentError where the place of checkpoints holds a key, as a spec could once.

    Each checkpoint to come would be written down with it, for all who read the results.
    """
    place = Location(spec.checkpoint.storage or "")
    if place.has_secret:
        raise ExperimentError(
            f"experiment {name!r} cannot go on: its checkpoints lie in {str(place)!r}, with a key in the path, which "
            "would be stored with each of them. What it has found can be read as before. Begin another search, under "
            "another name, with a path without a key (see checkpoint.storage in docs/spec.md) and "
            f'start_points=[trial.config for trial in load("{name}").trials()[:5]]'
        )


def _check_growth(spec: SearchSpec, name: str, choices: Mapping[str, Sequence[Any]]) -> None:
    """Raise ExperimentError where the search cannot go on exactly with more choices."""
    searcher, scheduler = spec.make_searcher(), spec.make_scheduler()
    if hasattr(scheduler, "prepare") and getattr(scheduler, "needs_checkpoints", False):
        why = f"the scheduler {type(scheduler).__name__} changes configs within the space that its population began in"
    elif hasattr(searcher, "passes"):
        why = "a grid is counted through, and with more values every point has another number"
    elif not getattr(searcher, "longer_choices", False):
        why = f"the searcher {type(searcher).__name__} does not say that it can (`longer_choices`)"
    else:
        return
    raise ExperimentError(
        f"experiment {name!r} cannot go on with more choices ({choices_of(choices)}): {why}. "
        "Resume it with those that it had, and begin another search, under another name, with the new values alone"
    )
