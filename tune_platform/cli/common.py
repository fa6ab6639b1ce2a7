"""What the commands share: arguments, JSON, and where an experiment lies."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from tune_platform.location import VARIABLE, Location, default_storage
from tune_platform.progress.text import finite

if TYPE_CHECKING:
    from tune_platform.results import Results, TrialResult
    from tune_platform.store.records import ExperimentRow

F = TypeVar("F", bound=Callable[..., Any])
_TIMES = ("created", "started", "ended")


def talk(text: str) -> None:
    """Say something to the person: on stderr, as stdout is for data. Nobody need listen."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(text, err=True)


@contextlib.contextmanager
def piped() -> Iterator[None]:
    """Leave the block where the reader of stdout has gone: `show digits | head -1` has what it wanted."""
    try:
        yield
    except BrokenPipeError:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        if not any(events & select.POLLERR for _, events in poll.poll(0)):
            raise  # another pipe
        _silence(sys.stdout)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        _silence(sys.stdout)  # the terminal was closed
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Have nobody hear what is left in the buffer, which is written when Python ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def storage_option(function: F) -> F:
    """Add `--storage`."""
    text = "Where experiments lie. [default: $TUNE_PLATFORM_STORAGE, else tune_results]"
    return click.option("--storage", metavar="DIR|URL", help=text)(function)


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")(function)


def experiment_argument(function: F) -> F:
    """Add the argument EXPERIMENT, which the shell can complete."""
    return click.argument("experiment", shell_complete=complete_experiment)(function)


def offer(words: Callable[[Mapping[str, Any]], Iterable[str]]) -> Callable[..., list[str]]:
    """Return a completion for the shell: those of the words that begin as given.

    `words` gets what else stands on the command line. What it raises is no word: a shell has no place for an error.
    """

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        with contextlib.suppress(Exception):
            # Where an option still lacks its value, click leaves the arguments before it unnamed.
            unnamed = {"experiment": ctx.args[0]} if ctx.args else {}
            return [word for word in words({**ctx.params, **unnamed}) if word.startswith(incomplete)]
        return []

    return complete


def _experiments(given: Mapping[str, Any]) -> list[str]:
    from tune_platform.store.sql import open_store

    with open_store(given.get("storage") or default_storage()) as store:
        return store.names()


def _metrics(given: Mapping[str, Any]) -> list[str]:
    from tune_platform.results import Results

    return Results(given["experiment"], storage=given.get("storage")).metric_names()


complete_experiment = offer(_experiments)
complete_metric = offer(_metrics)


def load(experiment: str, storage: str | None) -> Results:
    """Return the results of an experiment; where rows of its log are missing, that is told."""
    from tune_platform.results import Results

    results = Results(experiment, storage=storage)
    results.check()
    return results


def print_json(value: Any) -> None:
    """Print JSON to stdout; what is not finite becomes null, as JSON has no word for it."""
    click.echo(json.dumps(finite(value), indent=2, ensure_ascii=False, default=str))


def is_population(row: ExperimentRow) -> bool:
    """Whether its scheduler is one under which trials go on from each other's checkpoints."""
    schedule = row.spec.get("schedule")
    return (schedule.get("name") if isinstance(schedule, Mapping) else schedule) in ("pbt", "pb2", "mf_pbt")


def trial_json(trial: TrialResult) -> dict[str, Any]:
    """Return a trial in the form that `--json` prints: times are in seconds since the epoch."""
    from tune_platform.protocol.configs import shown
    from tune_platform.results.tables import row_columns

    found = {name: getattr(trial, name) for name in row_columns()}
    found |= {name: None if (time := found[name]) is None else time.timestamp() for name in _TIMES}
    found["checkpoint"] = None if trial.checkpoint is None else trial.checkpoint.uri
    found["folder"] = trial.folder
    return {**found, "config": shown(trial.config), "metrics": trial.last, "metrics_at_best": trial.metrics}


def parse_value(text: str) -> Any:
    """Read text as a YAML scalar would be; `1e-4` is a number, since nobody quotes on a command line."""
    import yaml

    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def pairs(values: tuple[str, ...], option: str) -> dict[str, str]:
    """Split `key=value` arguments. Raises click.UsageError for one that is none."""
    found = {}
    for each in values:
        key, equals, value = each.partition("=")
        if not equals or not key.strip():
            raise click.UsageError(f"{option}: got {each!r}; key=value is wanted")
        found[key.strip()] = value
    return found


def _program() -> list[str]:
    """Return how this program was started: where `uv run` did it, the shell may not know it by its own name."""
    return ["uv", "run", "tune-platform"] if os.environ.get("UV_RUN_RECURSION_DEPTH") else ["tune-platform"]


def same_command(*more: str) -> str:
    """Return the present command as it was given, with `more` after it, to be pasted into a shell."""
    context = click.get_current_context()
    words = [*_program(), str(context.info_name)]
    for param in context.command.params:
        name, value = str(param.name), context.params.get(str(param.name))
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        option = max(param.opts, key=len)
        if not given or option in more:
            continue
        for each in (value or ()) if param.multiple or param.nargs != 1 else [value]:
            if isinstance(param, click.Option):
                words.append(option)
            if not (isinstance(param, click.Option) and param.is_flag):
                words.append(_pasted(str(each)))
    return " ".join([*words, *map(shlex.quote, more)])


def _pasted(word: str) -> str:
    """Return a word as the shell takes it; a URL with a password is to come from the environment."""
    if not Location(word).has_secret:
        return shlex.quote(word)
    key = word.partition("://")[0].rpartition("=")[0]
    return f'{shlex.quote(key)}="${VARIABLE}"' if key else f'"${VARIABLE}"'


def command_line(verb: str, name: str, storage: Location, *rest: str) -> str:
    """Return a command that can be pasted into a shell; `--storage` is left out where it is the default.

    A URL with a password is not shown: the shell is to take it from TUNE_PLATFORM_STORAGE.
    """
    from tune_platform.store.sql import open_store

    words = [*_program(), verb, name, *rest]
    with open_store(storage) as store, open_store(default_storage()) as default:
        elsewhere = store.location != default.location
    if elsewhere and storage.has_secret:
        return f'{shlex.join(words)} --storage "${VARIABLE}"'
    return shlex.join([*words, "--storage", storage] if elsewhere else words)
