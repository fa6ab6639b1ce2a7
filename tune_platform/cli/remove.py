"""`rm`: remove experiments with all that they wrote."""

from __future__ import annotations

import click

from tune_platform.cli.common import complete_experiment, storage_option, talk
from tune_platform.errors import ExperimentError, TunePlatformError
from tune_platform.progress.text import counts, size


@click.command()
@click.argument("experiments", nargs=-1, required=True, metavar="EXPERIMENT...", shell_complete=complete_experiment)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@storage_option
def rm(experiments: tuple[str, ...], yes: bool, storage: str | None) -> None:
    """Remove experiments: what the store has of them, checkpoints and logs.

    Takes whole names. One that is being run is refused; `stop` ends it first.

    \b
    Example: tune-platform rm digits digits-2
    """
    from tune_platform.results import locate
    from tune_platform.store.removal import remove
    from tune_platform.store.sql import open_store

    places = [locate(experiment, storage) for experiment in dict.fromkeys(experiments)]
    for name, place in places:  # all of them are looked at before one is removed
        with open_store(place) as store:
            name = store.find(name, exact=True)
            row = store.row(name)
            if row.status == "running":
                raise ExperimentError(
                    f"experiment {name!r} is being run by {row.driver}; end it first: tune-platform stop {name} --now"
                )
        talk(f"{name} in {store.location}: {row.status}, {counts(row.counts)}")
    if not yes:
        what = "it" if len(places) == 1 else f"these {len(places)}"
        try:
            sure = click.confirm(f"Remove {what} with checkpoints and logs?", err=True)
        except click.Abort:
            raise click.UsageError("nobody answered, so nothing was removed; --yes does not ask") from None
        if not sure:
            talk("nothing was removed")
            return
    failed = []
    for name, place in places:
        try:
            with open_store(place) as store:
                removed = remove(store, name)
        except TunePlatformError as error:
            failed.append(str(error))
            continue
        talk(f"removed {name}: {removed.trials} trials, {size(removed.bytes)} of files")
    if failed:
        raise ExperimentError("; ".join(failed))


COMMANDS = (rm,)
