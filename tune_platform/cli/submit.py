"""`submit`: a search as a job of a cluster, from a machine that is not of it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tune_platform.cli.common import talk
from tune_platform.cli.run import overrides_of, run, spec_argument
from tune_platform.location import Location

if TYPE_CHECKING:
    from tune_platform.cluster.jobs import Client

#: The folder of a job goes when the job has ended, so results lie beside it. The shell of the head node reads this.
_STORAGE = "$HOME/tune_results"


@click.command()
@spec_argument
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS OF RUN]")
@click.option(
    "--address",
    required=True,
    metavar="URL",
    envvar="RAY_API_SERVER_ADDRESS",
    help="Of the dashboard of the cluster's head node.  [default: $RAY_API_SERVER_ADDRESS]",
)
@click.option("--wait", is_flag=True, help="Show what it prints until it ends; exit with its code.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Do not ship this, as in .gitignore. Repeatable.")
@click.option(
    "--storage",
    metavar="DIR|URL",
    help="Where experiments lie, seen from the head node.  [default: that of the spec, else ~/tune_results]",
)
def submit(spec: Path, more: tuple[str, ...], address: str, wait: bool, exclude: tuple[str, ...],
           storage: str | None) -> None:  # fmt: skip
    """Run a search as a job of a Ray cluster, with the present folder.

    The job goes on when this machine does not. What stands after -- is for `run`; --if-exists resume goes on with one.

    \b
    Example: tune-platform submit examples/digits.yaml --address http://head:8265 --wait -- --name digits
    """
    from tune_platform.cluster import jobs
    from tune_platform.cluster.shipping import EXCLUDES, check_size
    from tune_platform.extras import require

    folder = Path.cwd()
    words = _words(spec, more, folder, storage)
    require("submit", "requests", "aiohttp")
    address = jobs.check_dashboard(address)
    excludes = [*EXCLUDES, *exclude]
    size = check_size(folder, excludes)
    entrypoint = " ".join(word if word == _STORAGE else shlex.quote(word) for word in words)
    quoted = ["sh", "-c", f"exec {entrypoint}"] if _STORAGE in words else words  # `ray job submit` quotes each word
    plain = ["ray", "job", "submit", "--address", address, "--working-dir", ".",
             "--runtime-env-json", json.dumps({"excludes": excludes}), "--", *quoted]  # fmt: skip
    talk(f"shipping at most {size / 2**20:.1f} MiB of {folder}; the same as\n  {shlex.join(plain)}")
    client = jobs.connect(address)
    job = jobs.submit(client, address, entrypoint, {"working_dir": str(folder), "excludes": excludes})
    _next_steps(job, address)
    if wait:
        _wait(client, job)
    else:
        click.echo(job)


def _words(spec: Path, more: tuple[str, ...], folder: Path, storage: str | None) -> list[str]:
    """Return the command of the job. Raises SpecError or click.UsageError for what `run` would refuse there."""
    from tune_platform.spec import resolve
    from tune_platform.spec.strict_yaml import read

    if not spec.resolve().is_relative_to(folder.resolve()):
        raise click.UsageError(f"{spec} does not lie in {folder}, which is what the job gets")
    options = dict(run.make_context("run", [str(spec), *more]).params)
    if options.pop("storage"):
        raise click.UsageError("--storage stands before the --")
    resolve(spec, overrides=overrides_of(options))
    words = ["tune-platform", "run", str(spec.resolve().relative_to(folder.resolve())), *more]
    written = read(spec).data.get("storage")
    if storage is None and isinstance(written, str) and _is_lasting(written):
        return words
    chosen = Location(storage or _STORAGE)
    if chosen.has_secret:
        raise click.UsageError(
            f"--storage: got {chosen}, whose password everybody could read who sees the job; have it without one, and "
            "the password in ~/.pgpass on the head node"
        )
    if not _is_lasting(chosen):
        raise click.UsageError(
            f"--storage: got {chosen}, which would go with the job's folder; a whole path or a URL is wanted"
        )
    return [*words, "--storage", str(chosen)]


def _is_lasting(storage: str) -> bool:
    place = Location(storage)
    return place.is_url or str(place) == _STORAGE or Path(str(place)).is_absolute()


def _next_steps(job: str, address: str) -> None:
    talk(f"job {job} runs on the cluster, whatever becomes of this machine")
    for verb, what in (("logs -f", "what it prints"), ("status", "how it stands"), ("stop", "end it")):
        talk(f"  {what:<15} ray job {verb} {job} --address {shlex.quote(address)}")


def _wait(client: Client, job: str) -> None:
    from tune_platform.cluster import jobs

    try:
        ending = jobs.follow(client, job, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        talk(f"no longer watching; job {job} goes on")
        click.get_current_context().exit(130)
    if ending.code:
        talk(f"job {job}: {ending.status.lower()}, exit code {ending.code}. {ending.message}")
    click.get_current_context().exit(ending.code)
