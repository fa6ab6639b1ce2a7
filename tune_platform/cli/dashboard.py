"""`dashboard`: the page in a browser."""

from __future__ import annotations

import os
import socket
import threading

import click

from tune_platform.cli.common import complete_experiment, storage_option, talk
from tune_platform.extras import require
from tune_platform.location import Location, default_storage

#: Seconds that the page of a run outlives it, so that an open one sees how it ended.
_LINGER_S = 4.0


@click.command()
@click.argument("experiment", required=False, shell_complete=complete_experiment)
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default="a free one", help="Port to listen on.")
@click.option("--open", "opened", is_flag=True, help="Open it in the browser.")
@click.option("--allow-control", is_flag=True, help="Who has the address may stop, pause and add trials.")
@click.option("--beside", type=int, hidden=True, help="End when this process has ended.")
@click.option("--listening", type=int, hidden=True, help="A socket that listens already, by its descriptor.")
@storage_option
def dashboard(
    experiment: str | None, port: int, opened: bool, allow_control: bool, beside: int | None, listening: int | None,
    storage: str | None,
) -> None:  # fmt: skip
    """Show experiments in a browser, live, finished or crashed.

    It listens on 127.0.0.1 only, and only reads unless --allow-control is given. Ctrl-C ends it.

    \b
    Example: tune-platform dashboard digits --open
    """
    if beside is not None:
        os.nice(10)  # the run comes first
        if hasattr(os, "SCHED_BATCH"):  # and is never put aside because a request has come
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    require("the dashboard", "dash", "dash_ag_grid", "dash_mantine_components", "plotly")
    from tune_platform.dashboard.server import serving
    from tune_platform.results import locate
    from tune_platform.store.sql import open_store

    where, name = Location(storage or default_storage()), None
    if experiment is not None:
        name, where = locate(experiment, storage)
        with open_store(where) as store:
            name = store.find(name)
    given = None if listening is None else socket.socket(fileno=listening)
    with serving(where, name, port=port, control=allow_control, listening=given) as (server, address):
        click.echo(address)
        talk("Ctrl-C ends it" if beside is None else "it ends with the run")
        if opened:
            click.launch(address)
        if beside is not None:
            threading.Thread(target=_end_with, args=(beside, server), daemon=True).start()
        server.serve_forever()


def _end_with(process: int, server: object) -> None:
    never = threading.Event()
    while os.getppid() == process:
        never.wait(0.5)
    never.wait(_LINGER_S)
    server.shutdown()  # type: ignore[attr-defined]
