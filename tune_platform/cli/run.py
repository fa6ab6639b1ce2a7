"""`run` and `resume`: start a search, or go on with one, and show how it goes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from tune_platform.cli.common import (
    command_line,
    experiment_argument,
    finite,
    pairs,
    parse_value,
    same_command,
    storage_option,
    talk,
)
from tune_platform.errors import NameTakenError
from tune_platform.location import Location

if TYPE_CHECKING:
    from tune_platform.engine.runner import Listener
    from tune_platform.engine.view import RunView
    from tune_platform.protocol.effects import Effect
    from tune_platform.protocol.events import Event
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
}


class Display(Protocol):
    """A listener that can also say something of its own."""

    def __call__(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        """Show one turn."""

    def say(self, text: str) -> None:
        """Print a line."""


def spec_argument(function: F) -> F:
    """Add the argument SPEC."""
    kind = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.argument("spec", type=kind)(function)


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
    # A spec names a module of the present folder, which an installed script does not search by itself.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    given = {_KEYS[key]: options[key] for key in _KEYS if options.get(key) is not None}
    return {**pairs(options.get("sets", ()), "--set"), **given}


_log_format = click.option(
    "--log-format", type=click.Choice(["auto", "plain", "json"]), default="auto", show_default=True,
    help="Progress on stderr: redrawn on a terminal, else lines; or lines of JSON.",
)  # fmt: skip


@click.command()
@spec_argument
@spec_options
@_log_format
@click.option("--dry-run", is_flag=True, help="Check the spec and say what would run.")
def run(spec: Path, log_format: str, dry_run: bool, **options: Any) -> None:
    """Run the search that a spec file describes.

    Ctrl-C once ends it gracefully, twice at once; `resume` goes on in both cases.

    \b
    Example: tune-platform run examples/digits.yaml --trials 20 --set schedule.eta=4
    """
    from tune_platform import api
    from tune_platform.claim import claim, made_up_name
    from tune_platform.spec import resolve

    search, _ = resolve(spec, overrides=overrides_of(options))
    for warning in search.check():
        talk(f"{click.style('warning', fg='yellow')}: {warning}")
    if dry_run:
        name = search.name or made_up_name(search, spec.stem)
        trials = "any number of" if search.trials is None else search.trials
        talk(f"would run {trials} trials as {name!r} in {search.storage}; nothing was started")
        return
    try:
        with claim(search, stem=spec.stem) as claimed, _display(claimed.experiment.name, log_format) as display:
            goes = "results go to" if claimed.fresh else "going on in"
            display.say(
                f"{claimed.experiment.name}: {goes} {search.storage}; Ctrl-C once ends gracefully, twice at once"
            )
            results = api.drive(claimed, search, [_Interruptions(display), display])
    except NameTakenError as taken:
        raise _choices(taken, search) from None
    _finish(results, log_format)


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
@click.option("--retry-failed", is_flag=True, help="Try the failed trials again.")
@click.option("--extend", multiple=True, metavar="trials=N|time=DURATION", help="Add to a budget. Repeatable.")
@storage_option
@_log_format
def resume(
    experiment: str,
    retry_failed: bool,
    extend: tuple[str, ...],
    storage: str | None,
    log_format: str,
) -> None:
    """Go on with an experiment, however it ended.

    \b
    Example: tune-platform resume digits --extend trials=100 --extend time=1h
    """
    from tune_platform import api
    from tune_platform.results import locate
    from tune_platform.store.sql import open_store

    overrides_of({})
    more = _extension(extend)
    name, storage = locate(experiment, storage)
    with open_store(storage) as store:
        name = store.find(name)
    with _display(name, log_format) as display:
        display.say(f"{name}: going on; Ctrl-C once ends gracefully, twice at once")
        listeners: list[Listener] = [_Interruptions(display), display]
        results = api.resume(name, storage=storage, listeners=listeners, retry_failed=retry_failed, extend=more)
    _finish(results, log_format)


def _extension(values: tuple[str, ...]) -> dict[str, float] | None:
    from tune_platform.errors import SpecError
    from tune_platform.spec.values import seconds

    more: dict[str, float] = {}
    for key, text in pairs(values, "--extend").items():
        try:
            value = seconds(text) if key == "time" else parse_value(text)
        except SpecError as error:
            raise click.UsageError(f"--extend {key}: {error}") from None
        if key not in ("trials", "time") or not isinstance(value, (int, float)) or not value > 0:
            raise click.UsageError(f"--extend: got {key}={text}; trials=N or time=DURATION is wanted")
        more[key] = value
    return more or None


def _finish(results: Results, log_format: str) -> None:
    from tune_platform.cli.ending import end_json, end_screen, exit_code

    if log_format == "json":
        click.echo(json.dumps(finite(end_json(results)), ensure_ascii=False, default=str))
    else:
        click.echo(end_screen(results))
    click.get_current_context().exit(exit_code(results))


@contextlib.contextmanager
def _display(name: str, log_format: str) -> Iterator[Display]:
    """Choose the display that stderr can show."""
    stream = sys.stderr
    forced = bool(os.environ.get("FORCE_COLOR"))
    if log_format == "auto" and os.environ.get("TERM") != "dumb" and (stream.isatty() or forced):
        from rich.console import Console

        from tune_platform.cli.live import Live

        with Live(name, Console(file=stream, highlight=False, emoji=False, markup=False)) as live, _spoken(live):
            yield live
        return
    from tune_platform.cli.plain import Plain

    with Plain(stream, as_json=log_format == "json") as plain, _spoken(plain):
        yield plain


@contextlib.contextmanager
def _spoken(display: Display) -> Iterator[None]:
    """Show what the platform logs (what an interrupted run waits for, a store that is away) as lines of the display."""
    logger, handler = logging.getLogger("tune_platform"), _Spoken(display)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Spoken(logging.Handler):
    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.say(self.format(record))


class _Interruptions:
    """Says what a Ctrl-C does. The run's own handlers do it; they are in place by the first turn."""

    def __init__(self, display: Display) -> None:
        self._display, self._seen, self._set = display, 0, False

    def __call__(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        if self._set or threading.current_thread() is not threading.main_thread():
            return
        self._set = True
        for number in (signal.SIGINT, signal.SIGTERM):
            inner = signal.getsignal(number)
            if callable(inner):
                signal.signal(number, self._announcing(inner))

    def _announcing(self, inner: Callable[[int, Any], Any]) -> Callable[[int, Any], Any]:
        def handle(number: int, frame: Any) -> Any:
            self._seen += 1
            if self._seen == 1:
                self._display.say("ending gracefully: running trials write a checkpoint; Ctrl-C again ends at once")
            return inner(number, frame)

        return handle
