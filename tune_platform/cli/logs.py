"""`logs`: what a trial printed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from tune_platform.cli.common import experiment_argument, load, storage_option, talk

#: Seconds between two looks for more.
PERIOD = 0.25
_PLACED = ("PENDING", "STARTING", "RUNNING", "PAUSING", "PAUSED")


@click.command()
@experiment_argument
@click.argument("trial", type=click.IntRange(min=0))
@click.option("-f", "--follow", is_flag=True, help="Go on as it prints more, until it has ended; retries too.")
@click.option("--all", "every", is_flag=True, help="All attempts, not only the last one.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="Only the last lines.  [default: all]")
@storage_option
def logs(experiment: str, trial: int, follow: bool, every: bool, lines: int | None, storage: str | None) -> None:
    """Print what a trial printed: its code, its subprocesses, and the traceback if it failed.

    \b
    Example: tune-platform logs digits 3 -f
    """
    results = load(experiment, storage)
    one = results.trial(trial)
    path = one.log_file
    if path is None and not follow:
        text = f"trial {trial} of {results.name} has printed nothing"
        if one.worker and one.worker != "inline":
            text += f", or that lies where it ran, on {one.worker}"
        talk(f"{text}: there is no {Path(one.folder) / 'log.txt'}")
        return
    place = _print(path, every, lines) if path is not None else 0
    while follow:
        # First whether it has ended, then what it printed: the other way round the last lines would be missed.
        ended = results.trial(trial).status not in _PLACED or results.status != "running"
        place = _print_more(Path(one.folder) / "log.txt", place)
        if ended:
            return
        time.sleep(PERIOD)


def _print(path: Path, every: bool, lines: int | None) -> int:
    """Print what there is, and return where it ends."""
    from tune_platform.results.logs import last_attempt, last_lines

    with path.open("rb") as file:
        start = 0 if every else last_attempt(file)
        if start > 0:
            talk("the last attempt; --all shows those before as well")
        if lines is not None:
            start = last_lines(file, lines, start)
    return _print_more(path, start)


def _print_more(path: Path, place: int) -> int:
    """Print what has come since `place`, and return where it ends now."""
    from tune_platform.results.logs import read

    out = sys.stdout.buffer
    try:
        with path.open("rb") as file:
            if path.stat().st_size < place:
                place = 0  # it was deleted, and is another one now
            for chunk in read(file, place):
                out.write(chunk)
                place += len(chunk)
    except FileNotFoundError:
        return 0
    out.flush()
    return place
