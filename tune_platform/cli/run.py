"""`run` and `resume`: start a search, or go on with one, and show how it goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tune_platform.cli.common import (
    command_line,
    experiment_argument,
    pairs,
    parse_value,
    piped,
    same_command,
    storage_option,
    talk,
)
from tune_platform.errors import NameTakenError
from tune_platform.location import Location
from tune_platform.progress import FORMS
from tune_platform.progress.text import finite
from tune_platform.surroundings import put_folder_first

if TYPE_CHECKING:
    from tune_platform.results import Results
    from tune_platform.spec import SearchSpec

F = TypeVar("F", bound=Callable[..., Any])

#: Options of the command line and the keys of the spec that they set.
_KEYS = {
    "trials": "budget.trials",
    "time": "budget.time",
    "concurrency": "budget.concurrency",
    "seed": "search.seed",
    "backend": "backend.name",
    "name": "name",
    "if_exists": "if_exists",
    "storage": "storage",
    "log_to_driver": "log_to_driver",
}


_SPEC = click.Path(exists=True, dir_okay=False, path_type=Path)


def spec_argument(function: F) -> F:
    """Add the argument SPEC."""
    return click.argument("spec", type=_SPEC)(function)


def spec_options(function: F) -> F:
    """Add the options that override a spec."""
    for option in reversed(
        (
            click.option("--set", "sets", multiple=True, metavar="KEY=VALUE",
                         help="Override any key of the spec, such as schedule.eta=4. Repeatable."),
            click.option("--trials", type=click.IntRange(min=1), help="Number of trials."),
            click.option("--time", metavar="DURATION", help="Time budget, such as 90s, 2h or 1h30m."),
            click.option("--concurrency", type=click.IntRange(min=1), help="Trials that run at a time."),
            click.option("--seed", type=click.IntRange(min=0), help="Seed of the search."),
            click.option("--backend", metavar="ray|inline", help="Where trials run."),
            click.option("--name", help="Name of the experiment."),
            click.option("--if-exists", type=click.Choice(["error", "resume", "new", "replace"]),
                         help="Where there is one of that name: go on with it, start name-2, or delete it."),
            storage_option,
        )
    ):  # fmt: skip
        function = option(function)
    return function


def overrides_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the options override, by dotted key; the named options win over `--set`."""
    put_folder_first()  # a spec names a module of it
    given = {_KEYS[key]: options[key] for key in _KEYS if options.get(key) is not None}
    return {**pairs(options.get("sets", ()), "--set"), **given}


_CTRL_C = "Ctrl-C once ends gracefully, twice at once"


def _progress_options(function: F) -> F:
    for option in (
        click.option("--log-format", type=click.Choice(["auto", "plain", "json"]), default="auto", hidden=True),
        click.option("--progress", type=click.Choice(FORMS),
                     help="Progress on stderr: redrawn on a terminal, else lines (auto); or lines of JSON, or none."),
        click.option("--log-to-driver/--no-log-to-driver", default=None,
                     help="Show what running trials print, too."),
    ):  # fmt: skip
        function = option(function)
    return function


def _form(progress: str, log_format: str) -> str:
    """Return the form of progress; `--log-format` is the older word for two of them."""
    return progress if log_format == "auto" else log_format


@click.command()
@spec_argument
@spec_options
@_progress_options
@click.option("--dashboard", is_flag=True, help="Show it in a browser too, for as long as it runs.")
@click.option("--dry-run", is_flag=True, help="Check the spec and say what would run.")
def run(spec: Path, progress: str | None, log_format: str, dashboard: bool, dry_run: bool, **options: Any) -> None:
    """Run the search that a spec file describes.

    Ctrl-C once ends it gracefully, twice at once; `resume` goes on in both cases.

    \b
    Example: tune-platform run examples/digits.yaml --trials 20 --set schedule.eta=4
    """
    from tune_platform import api
    from tune_platform.claim import claim, made_up_name
    from tune_platform.cli.beside import start_dashboard
    from tune_platform.progress.shown import shown
    from tune_platform.spec import resolve

    search, _ = resolve(spec, overrides=overrides_of(options))
    for warning in search.check():
        talk(f"{click.style('warning', fg='yellow')}: {warning}")
    if dry_run:
        name = search.name or made_up_name(search, spec.stem)
        trials = "any number of" if search.trials is None else search.trials
        talk(f"would run {trials} trials as {name!r} in {search.storage}; nothing was started")
        return
    form = _form(progress or search.progress, log_format)
    try:
        with claim(search, stem=spec.stem) as claimed:
            name = claimed.experiment.name
            if dashboard:
                talk(f"dashboard: {start_dashboard(name, search.storage)}")
            opening = f"{name}: {'results go to' if claimed.fresh else 'going on in'} {search.storage}; {_CTRL_C}"
            with shown(name, form, opening=opening, quiet=0.0) as display:
                results = api.drive(claimed, search, display.listeners, progress="off")
    except NameTakenError as taken:
        raise _choices(taken, search) from None
    _finish(results, as_json=form == "json")


def _choices(taken: NameTakenError, spec: SearchSpec) -> NameTakenError:
    """Return the error with the commands for each choice."""
    show = command_line("show", taken.name, Location(spec.storage))
    lines = [
        (show, "look at it"),
        (same_command("--if-exists", "resume"), "go on with it"),
        (same_command("--if-exists", "new"), f"start another one, {taken.free!r}"),
        (same_command("--if-exists", "replace"), "delete it with all that it found, and start"),
    ]
    wide = max(len(what) for _, what in lines)
    listed = "\n".join(f"  {what:<{wide}}  {command}" for command, what in lines)
    return NameTakenError(
        f"experiment {taken.name!r} exists already in {spec.storage} ({taken.state}). Say what is to be done:\n{listed}"
    )


@click.command()
@experiment_argument
@click.argument("spec", type=_SPEC, required=False)
@click.option("--retry-failed", is_flag=True, help="Try the failed trials again.")
@click.option(
    "--extend",
    multiple=True,
    metavar="KEY=AMOUNT",
    help="Add to a budget: trials, time, gpu_hours or cost, or another deadline. Repeatable.",
)
@storage_option
@_progress_options
def resume(
    experiment: str,
    spec: Path | None,
    retry_failed: bool,
    extend: tuple[str, ...],
    storage: str | None,
    progress: str | None,
    log_format: str,
    log_to_driver: bool | None,
) -> None:
    """Go on with an experiment, however it ended.

    SPEC is needed only where lists of choices have got more values at their end, which are tried from now on.

    \b
    Example: tune-platform resume digits --extend trials=100 --extend time=1h
    """
    from tune_platform import api
    from tune_platform.progress.shown import shown
    from tune_platform.results import Results, locate
    from tune_platform.spec import resolve
    from tune_platform.store.sql import open_store

    overrides = overrides_of({})
    more = _extension(extend)
    name, storage = locate(experiment, storage)
    with open_store(storage) as store:
        name = store.find(name)
    search = None if spec is None else resolve(spec, overrides=overrides)[0].model_copy(update={"storage": storage})
    form = _form(progress or Results(name, storage=storage).spec.get("progress", "auto"), log_format)
    with shown(name, form, opening=f"{name}: going on; {_CTRL_C}", quiet=0.0) as display:
        results = api.resume(
            name,
            storage=storage,
            spec=search,
            listeners=display.listeners,
            retry_failed=retry_failed,
            extend=more,
            progress="off",
            log_to_driver=log_to_driver,
        )
    _finish(results, as_json=form == "json")


def _extension(values: tuple[str, ...]) -> dict[str, Any] | None:
    from tune_platform.continuation import extension
    from tune_platform.errors import SpecError
    from tune_platform.protocol.requests import EXTENSIONS

    given = {key: text if key == "deadline" else parse_value(text) for key, text in pairs(values, "--extend").items()}
    for key, value in given.items():
        if key not in EXTENSIONS or value in (0, None):
            wanted = "trials=N, time=DURATION, gpu_hours=H, cost=C or deadline=DATE"
            raise click.UsageError(f"--extend: got {key}={value}; {wanted} is wanted")
    try:
        return extension(given) or None
    except SpecError as error:
        raise click.UsageError(f"--{error}") from None


def _finish(results: Results, *, as_json: bool) -> None:
    from tune_platform.cli.ending import end_json, end_screen, exit_code

    code = exit_code(results)
    with piped():
        if as_json:
            click.echo(json.dumps(finite(end_json(results)), ensure_ascii=False, default=str))
        else:
            click.echo(end_screen(results))
    click.get_current_context().exit(code)
