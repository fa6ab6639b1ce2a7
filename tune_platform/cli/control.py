"""The commands that ask a search for something: stop, pause, unpause, enqueue, which run; tag, which need not.

Each leaves a request in the store; the driver carries it out, and writes it into the log.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from tune_platform.cli.common import (
    command_line,
    experiment_argument,
    pairs,
    parse_value,
    storage_option,
    talk,
)
from tune_platform.errors import ExperimentError

if TYPE_CHECKING:
    from tune_platform.store.records import ExperimentRow
    from tune_platform.store.sql import SqlExperiment


@click.command()
@experiment_argument
@click.argument("trial", type=int, required=False)
@click.option("--now", is_flag=True, help="Do not wait for running trials, or for the step.")
@storage_option
def stop(experiment: str, trial: int | None, now: bool, storage: str | None) -> None:
    """Stop a search, or one trial of it.

    Running trials of a search finish first, one TRIAL its present step, unless --now is given.

    \b
    Example: tune-platform stop digits
    """
    with _running(experiment, storage, trial) as (open_experiment, row):
        action = "cancel" if now else "stop"
        open_experiment.request(action, trial, {}, time.time())
        running = sum(row.counts.get(status, 0) for status in ("STARTING", "RUNNING", "PAUSING"))
    if trial is not None:
        _said(row.name, f"trial {trial} is stopped" + ("" if now else " once its present step is over, which is kept"))
    elif now:
        _said(row.name, f"its {running} running trials are stopped, and the search ends")
    else:
        _said(row.name, f"no new trials start, its {running} running ones finish, then the search ends")


@click.command()
@experiment_argument
@click.argument("trial", type=int, required=False)
@storage_option
def pause(experiment: str, trial: int | None, storage: str | None) -> None:
    """Pause a search, or one trial of it.

    No new trials start, and running ones go on; one TRIAL is put aside with a checkpoint.

    \b
    Example: tune-platform pause digits
    """
    with _running(experiment, storage, trial) as (open_experiment, row):
        open_experiment.request("pause", trial, {}, time.time())
    what = "no new trials start; running ones go on" if trial is None else f"trial {trial} is put aside"
    _said(row.name, f"{what} until `unpause`")


@click.command()
@experiment_argument
@click.argument("trial", type=int, required=False)
@storage_option
def unpause(experiment: str, trial: int | None, storage: str | None) -> None:
    """Undo `pause`.

    \b
    Example: tune-platform unpause digits
    """
    with _running(experiment, storage, trial) as (open_experiment, row):
        open_experiment.request("unpause", trial, {}, time.time())
    _said(row.name, "trials start again" if trial is None else f"trial {trial} goes on when there is room")


@click.command()
@experiment_argument
@click.argument("values", nargs=-1, required=True, metavar="KEY=VALUE...")
@storage_option
def enqueue(experiment: str, values: tuple[str, ...], storage: str | None) -> None:
    """Add a trial of your own to a running search.

    It has these values; what they leave open is sampled.

    \b
    Example: tune-platform enqueue digits lr=0.01 optimizer=adamw model/width=64
    """
    given = {key: parse_value(text) for key, text in pairs(values, "enqueue").items()}
    with _running(experiment, storage) as (open_experiment, row):
        if not _check_config(open_experiment.spec, given):
            talk("note: the space holds objects of Python, so the values cannot be checked here")
        open_experiment.request("enqueue", None, {"config": given}, time.time())
    shown = ", ".join(f"{key}={value!r}" for key, value in given.items())
    _said(row.name, f"one more trial with {shown}")


@click.command()
@experiment_argument
@click.argument("tags", nargs=-1)
@click.option("--remove", multiple=True, metavar="TAG", help="Take this one off; may be given again.")
@storage_option
def tag(experiment: str, tags: tuple[str, ...], remove: tuple[str, ...], storage: str | None) -> None:
    """Tag an experiment, and print its tags.

    It need not run. `ls` and the dashboard show the tags, and the dashboard finds experiments by them.

    \b
    Example: tune-platform tag digits baseline paper --remove draft
    """
    from tune_platform.protocol.requests import refusal
    from tune_platform.results import locate
    from tune_platform.store.sql import open_store

    data = {"add": list(tags), "remove": list(remove)}
    if problem := refusal("tag", None, data):
        raise click.UsageError(problem)
    name, storage = locate(experiment, storage)
    with open_store(storage) as store, store.open(name) as found:
        if tags or remove:
            found.request("tag", None, data, time.time())
        for each in found.row().tags:
            click.echo(each)


@contextmanager
def _running(name: str, storage: str | None, trial: int | None = None) -> Iterator[tuple[SqlExperiment, ExperimentRow]]:
    """Open an experiment that runs now. Raises ExperimentError, with what to do, for another, or an ended trial."""
    from tune_platform.results import locate
    from tune_platform.store.sql import open_store

    name, storage = locate(name, storage)
    with open_store(storage) as store, store.open(name) as experiment:
        row = experiment.row()
        if row.status != "running":
            why = f"{row.status}: {row.reason}" if row.reason else row.status
            again = command_line("resume", row.name, storage)
            raise ExperimentError(f"experiment {row.name!r} is not running ({why}). To go on with it: {again}")
        if trial is not None:
            status = experiment.trial(trial).status
            if status in ("COMPLETED", "STOPPED", "FAILED"):
                raise ExperimentError(f"trial {trial} of {row.name!r} has ended already: {status.lower()}")
        yield experiment, row


def _check_config(spec: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Check that a partial config is in the space. Raises SpecError; False where it cannot be known."""
    import numpy as np

    from tune_platform.space import Space
    from tune_platform.spec.values import live_objects

    if live_objects({"space": spec.get("space", {})}):
        return False  # the store only names what Python objects were in it
    rules = [rule for rule in spec.get("constraints", ()) if isinstance(rule, str)]
    space = Space.from_dict(spec.get("space", {}), rules)
    space.complete(given, np.random.default_rng(0))
    return True


def _said(name: str, what: str) -> None:
    talk(f"{name}: asked; {what}")


COMMANDS = (stop, pause, unpause, enqueue, tag)
