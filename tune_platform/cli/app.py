"""The group of all commands, and what becomes of an error.

Exit codes: 0 all is well, 1 the run failed or found nothing, 2 wrong usage or spec and nothing was started, 3 more
trials failed than the budget allows, 4 a run ended midway by an error, 130 interrupted.
"""

from __future__ import annotations

import os
import traceback
from typing import Any

import click

from tune_platform import __version__
from tune_platform.cli import (
    check,
    completion,
    control,
    dashboard,
    doctor,
    exchange,
    init,
    lineage,
    logs,
    plot,
    quota,
    read,
    remove,
    run,
    simulate,
    submit,
    top,
)
from tune_platform.cli.common import piped, talk
from tune_platform.errors import ExperimentError, MissingLibraryError, SpecError, TunePlatformError

MIDWAY = 4
"""The exit code of a run that was ended by an error after it had begun."""


class Commands(click.Group):
    """A group that turns our errors into one message and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; help is printed here."""
        with piped():
            return super().parse_args(ctx, args)
        raise click.exceptions.Exit(0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        ctx.color = wants_colour()
        try:
            with piped():
                return super().invoke(ctx)
        except TunePlatformError as error:
            if _debugging():
                talk(traceback.format_exc())
            talk(f"{click.style('error', fg='red', bold=True)}: {error}")
            ctx.exit(exit_code(error))
        except Exception as error:
            midway = bool(getattr(error, "midway", False))
            if not midway and not isinstance(error, OSError):
                raise
            if midway or _debugging():
                talk(traceback.format_exc())
            talk(f"{click.style('error', fg='red', bold=True)}: {_said(error, midway)}")
            ctx.exit(MIDWAY if midway else 2)
        except (KeyboardInterrupt, click.Abort):
            talk("interrupted")
            ctx.exit(130)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of a user's day, not of the alphabet."""
        return list(self.commands)


def _said(error: Exception, midway: bool) -> str:
    if not midway and isinstance(error, OSError) and error.strerror:  # such as a file that cannot be written
        return f"{error.filename or 'stdout'}: {error.strerror}"
    return f"{type(error).__name__}: {error}"


def _debugging() -> bool:
    return os.environ.get("TUNE_PLATFORM_DEBUG", "0") not in ("", "0")


def wants_colour() -> bool | None:
    """Return what the environment says of colours; None leaves it to whether the stream is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return False if os.environ.get("TERM") == "dumb" else None


def exit_code(error: TunePlatformError) -> int:
    """Return 2 where nothing was started, 4 where a run was under way, 1 where there is no result."""
    if error.midway:
        return MIDWAY
    from_usage = isinstance(error, (SpecError, ExperimentError, MissingLibraryError))
    return 2 if from_usage and type(error).__name__ != "NoResultError" else 1


@click.group(
    "tune-platform", cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="tune-platform")
def main() -> None:
    """Hyperparameter tuning on Ray: run a search, watch it, stop it, go on with it, read what it found.

    An EXPERIMENT is given by its name, the unique beginning of its name, or the path of its folder.

    \b
    Example:
      tune-platform run examples/digits.yaml --trials 20
      tune-platform best digits --as python
    """


for command in (
    init.init, run.run, check.check, simulate.simulate, run.resume, submit.submit, *read.COMMANDS, plot.plot,
    exchange.import_, lineage.lineage, logs.logs, dashboard.dashboard, top.top, quota.quota, *control.COMMANDS,
    *remove.COMMANDS, doctor.doctor, completion.completion,
):  # fmt: skip
    main.add_command(command)
