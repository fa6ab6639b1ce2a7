"""`doctor`: what this machine offers, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import click

from tune_platform import __version__
from tune_platform.cli.common import complete_experiment, json_option, print_json, storage_option
from tune_platform.cluster.address import ask_ray, find_address, note_of_ray
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.extras import EXTRAS, is_installed
from tune_platform.location import Location, default_storage, unsafe_for_sqlite, unwritable

PACKAGES = ("ray", "optuna", "sqlalchemy", "pandas")
_COLOURS = {"ok": "green", "note": "yellow", "fail": "red"}


class Finding(NamedTuple):
    """One line: `state` is ok, note (works, but less well) or fail (a search cannot run)."""

    state: str
    what: str
    text: str


@click.command()
@click.argument("experiments", nargs=-1, shell_complete=complete_experiment)
@storage_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, experiments: tuple[str, ...], storage: str | None, as_json: bool) -> None:
    """Look at this machine, or whether EXPERIMENTS are whole.

    Versions, CPUs, GPUs, Ray, the storage. Of experiments: every row of the log, the reports, the trials, and every
    checkpoint that is kept. Starts and changes nothing; exit code 1 where something is wrong.

    \b
    Example: tune-platform doctor --storage ~/tune_results
             tune-platform doctor digits
    """
    place = Location(storage or default_storage())
    findings = list(_looked_through(place, experiments) if experiments else _findings(place))
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        wide = max(len(finding.what) for finding in findings)
        for state, what, text in findings:
            click.echo(f"{click.style(f'{state:<4}', fg=_COLOURS[state])}  {what:<{wide}}  {text}")
    ctx.exit(1 if any(finding.state == "fail" for finding in findings) else 0)


def _looked_through(storage: Location, names: Iterable[str]) -> Iterator[Finding]:
    from tune_platform.api import check_up

    for name in names:
        wrong = check_up(name, storage=storage)
        yield from (Finding("fail", name, line) for line in wrong)
        if not wrong:
            yield Finding("ok", name, "whole: the log, the reports and the trials agree, and no checkpoint is lost")


def _findings(storage: Location) -> Iterator[Finding]:
    yield Finding("ok", "tune-platform", __version__)
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        text = "PYTHONDONTWRITEBYTECODE is set: every worker compiles anew all that it imports, for seconds; unset it"
        yield Finding("note", "bytecode", text)
    for name in PACKAGES:
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            yield Finding("fail", name, "not installed, though every search needs it: pip install tune-platform")
    yield _extras()
    yield Finding("ok", "CPUs", f"{_cpus()}, {_memory() / 2**30:.1f} GiB of memory")
    yield _gpus()
    yield _ray()
    yield from _storage(storage)


def _extras() -> Finding:
    here: list[str] = []
    missing: list[str] = []
    for extra, modules in groupby(EXTRAS, EXTRAS.__getitem__):
        (here if all(map(is_installed, modules)) else missing).append(extra)
    text = ", ".join(here) or "none"
    if missing:
        text += f"; not here: {', '.join(missing)} (pip install 'tune-platform[NAME]')"
    return Finding("ok", "extras", text)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("nan")


def _gpus() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("ok", "GPUs", "none (no nvidia-smi)")
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("note", "GPUs", f"nvidia-smi does not answer: {error}. Mend the driver, or ask for no GPU")
    names = [line.strip() for line in found.splitlines() if line.strip()]
    return Finding("ok", "GPUs", "; ".join(names) or "none")


def _ray() -> Finding:
    """Say which Ray a run would use, and whether it could: Ray is asked in a process of its own, and not joined."""
    try:
        address = find_address(None)
    except SpecError as error:
        return Finding("fail", "Ray cluster", f"{error}; mend or unset it")
    if address.text == "local":
        if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
            text = "a run starts one, which every user of this machine can enter and use as you: unset RAY_AUTH_MODE"
            return Finding("note", "Ray cluster", text)
        text = "none is running; a run starts one, which only you can enter, from this machine"
        return Finding("ok", "Ray cluster", text)
    if address.text == "auto":
        return Finding("ok", "Ray cluster", f"a run joins the one that runs on this machine ({address.named} is auto)")
    try:
        guarded = ask_ray(address, 15).guarded
    except (ConnectionError, ExperimentError) as error:
        if address.named:
            return Finding("fail", "Ray cluster", f"{address} cannot be joined: {error}; else unset {address.named}")
        text = f"{address} cannot be joined: {error}; a run passes it over. If it is gone, delete {note_of_ray()}"
        return Finding("note", "Ray cluster", text)
    if guarded:
        return Finding("ok", "Ray cluster", f"a run joins the one at {address}, which wants a token; this user has it")
    text = "which wants no token: whoever reaches it can run code in it. Guard it by RAY_AUTH_MODE=token on its nodes"
    return Finding("note", "Ray cluster", f"a run joins the one at {address}, {text}")


def _storage(storage: Location) -> Iterator[Finding]:
    from tune_platform.errors import TunePlatformError
    from tune_platform.store.sql import open_store

    try:
        with open_store(storage) as store:
            names, where = store.names(), store.location
    except TunePlatformError as error:
        yield Finding("fail", "storage", str(error))
        return
    if "://" in where:
        yield Finding("ok", "storage", f"{where}: {len(names)} experiments")
        return
    folder = Path(where)
    while not folder.exists():  # it is made by the first run
        folder = folder.parent
    if said := unsafe_for_sqlite(where) or unwritable(where):
        yield Finding("fail", "storage", said)
    else:
        yield Finding("ok", "storage", f"{where}: writable, {len(names)} experiments")
    free = shutil.disk_usage(folder).free / 2**30
    if free < 1:
        yield Finding("note", "disk space", f"{free:.1f} GiB free: free some, or name another place by --storage")
    else:
        yield Finding("ok", "disk space", f"{free:.1f} GiB free")
