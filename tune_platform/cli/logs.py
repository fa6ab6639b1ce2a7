"""`logs`: what a trial printed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any, Protocol

import click

from tune_platform.cli.common import experiment_argument, load, storage_option, talk

if TYPE_CHECKING:
    from tune_platform.results import Results, TrialResult

#: Seconds between two looks for more.
PERIOD = 0.25
#: Seconds for a cluster to answer.
_ANSWERS_WITHIN = 15.0
_PLACED = ("PENDING", "STARTING", "RUNNING", "PAUSING", "PAUSED")


class _Log(Protocol):
    """See `results.logs.TrialLog`."""

    def begin(self, every_attempt: bool, lines: int | None) -> tuple[int, bool] | None: ...

    def more(self, place: int) -> tuple[bytes, int]: ...


@click.command()
@experiment_argument
@click.argument("trial", type=click.IntRange(min=0))
@click.option("-f", "--follow", is_flag=True, help="Go on as it prints more, until it has ended; retries too.")
@click.option("--all", "every", is_flag=True, help="All attempts, not only the last one.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="Only the last lines.  [default: all]")
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Of the head node, where the trial ran on another.  [default: $RAY_ADDRESS, else what runs here]",
)
@storage_option
def logs(experiment: str, trial: int, follow: bool, every: bool, lines: int | None, address: str | None,
         storage: str | None) -> None:  # fmt: skip
    """Print what a trial printed: its code, its subprocesses, and the traceback if it failed.

    What lies on another node of a Ray cluster is read there, by a process that holds nothing.

    \b
    Example: tune-platform logs digits 3 -f
    """
    results = load(experiment, storage)
    one = results.trial(trial)
    reach = _has_ray(address)
    host: str | None = _elsewhere(one, reach)
    if not follow and not host and one.log_file is None:
        text = f"trial {trial} of {results.name} has printed nothing"
        if one.worker and one.worker != "inline":
            text += f", or that lies where it ran, on {one.worker} (--address HOST:PORT names the cluster)"
        talk(f"{text}: there is no {Path(one.folder) / 'log.txt'}")
        return
    while host is not None:
        with _opened(host, one.folder, address) as log:
            place = _begin(log, every, lines)
            if place is None and not follow:
                talk(f"trial {trial} of {results.name} has printed nothing on {one.worker}")
            if follow:
                host = _go_on(results, trial, log, place or 0, host, reach)
            else:
                _print_more(log, place or 0)
                return
        every, lines = False, None  # of the next node, on which another attempt runs


def _go_on(results: Results, trial: int, log: _Log, place: int, host: str, reach: bool) -> str | None:
    """Print what there is from a place on, and what comes; return where the trial has moved to, None at the end."""
    while True:
        # First how it stands, then what it printed: the other way round the last lines would be missed.
        one = results.trial(trial)
        ended = one.status not in _PLACED or results.status != "running"
        place = _print_more(log, place)
        if (now := _elsewhere(one, reach)) != host:
            return now
        if ended:
            return None
        time.sleep(PERIOD)


def _elsewhere(one: TrialResult, reach: bool) -> str:
    """Return the host that alone has the log of a trial; an empty text where that is this one, or there is none yet.

    `reach`: whether there is a cluster in which that host could be.
    """
    host = one.worker.rpartition(":")[0]
    return "" if not reach or one.log_file is not None or host in ("", gethostname()) else host


def _has_ray(address: str | None) -> bool:
    from tune_platform.cluster.address import find_address

    return find_address(address).text != "local"


@contextmanager
def _opened(host: str, folder: str, address: str | None) -> Iterator[_Log]:
    """Give the log of the trial with this folder, of this machine or of another host."""
    from tune_platform.results.logs import TrialLog

    path = str(Path(folder) / "log.txt")
    if not host:
        yield TrialLog(path)
        return
    from tune_platform.cluster.elsewhere import made_on

    with made_on(host, TrialLog, path, address=address, seconds=_ANSWERS_WITHIN) as call:
        yield _There(call)


class _There:
    """A log that is read by a process elsewhere."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def begin(self, every_attempt: bool, lines: int | None) -> tuple[int, bool] | None:
        return self._call("begin", every_attempt, lines)  # type: ignore[no-any-return]

    def more(self, place: int) -> tuple[bytes, int]:
        return self._call("more", place)  # type: ignore[no-any-return]


def _begin(log: _Log, every: bool, lines: int | None) -> int | None:
    """Return where to begin, and say where attempts are left out; None where there is nothing."""
    found = log.begin(every, lines)
    if found is not None and found[1]:
        talk("the last attempt; --all shows those before as well")
    return None if found is None else found[0]


def _print_more(log: _Log, place: int) -> int:
    """Print what has come since `place`, and return where it ends now."""
    out = sys.stdout.buffer
    while True:
        data, place = log.more(place)
        if not data:
            out.flush()
            return place
        out.write(data)
