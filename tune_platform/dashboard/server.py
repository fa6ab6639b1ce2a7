"""The server: one process of its own, on this machine only."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dash import Dash
from flask import Flask, Response, abort, request
from plotly.io.json import to_json_plotly

from tune_platform.dashboard.callbacks import add_callbacks
from tune_platform.dashboard.drawing import draw
from tune_platform.dashboard.files import LOG_LIMIT, checkpoint_zip, chunks, log_of
from tune_platform.dashboard.guard import Guard
from tune_platform.dashboard.layout import frame
from tune_platform.dashboard.listing import sparkline
from tune_platform.dashboard.live import Asked, changes
from tune_platform.dashboard.loading import LOADING
from tune_platform.dashboard.options import read
from tune_platform.dashboard.source import Source
from tune_platform.errors import SpecError, TunePlatformError
from tune_platform.extras import require
from tune_platform.plots import FIGURES, plotlyjs
from tune_platform.plots.data import as_csv
from tune_platform.results.tables import no_formula

HOST = "127.0.0.1"
#: Where Dash looks for plotly.js; what stands there is ours.
_PLOTLY = "/_dash-component-suites/plotly/package_data/plotly.min.js"
#: What the first view needs and Dash would ask for only when a part of it is drawn: the browser gets it meanwhile.
_EARLY = f"""
<script src="/assets/native.js"></script>
<script async src="{_PLOTLY}"></script>
<link rel="preload" as="script" href="/_dash-component-suites/dash/dcc/async-graph.js">
<link rel="preload" as="script" href="/_dash-component-suites/dash_ag_grid/async-community.js">
"""


def make_app(source: Source, guard: Guard) -> Flask:
    """Return the application, for any server of WSGI."""
    flask = Flask("tune_platform.dashboard")
    app = Dash(
        "tune_platform.dashboard",
        server=flask,
        assets_folder=str(Path(__file__).parent / "assets"),
        title="tune-platform",
        update_title="",
        suppress_callback_exceptions=True,
        serve_locally=True,
        compress=False,
    )
    page = app.index_string.replace("<html>", '<html lang="en">').replace("{%css%}", "{%css%}" + _EARLY)
    app.index_string = page
    app.layout = frame
    flask.add_url_rule(_PLOTLY, "plotly", lambda: Response(plotlyjs.source(), mimetype="text/javascript"))
    add_callbacks(app, source, guard.may_control)
    flask.add_url_rule("/live", "live", lambda: _live(source), methods=["POST"])
    _files(flask, source)
    LOADING.install(flask)
    guard.install(flask, app.csp_hashes())
    return flask


def _live(source: Source) -> Response:
    try:
        found = changes(source, Asked.of(request.get_json(silent=True)))
    except SpecError as error:
        abort(HTTPStatus.BAD_REQUEST, str(error))
    except (TunePlatformError, KeyError) as error:
        abort(HTTPStatus.NOT_FOUND, str(error))
    if found is None:
        return Response(status=HTTPStatus.NO_CONTENT)
    return Response(to_json_plotly(found), mimetype="application/json")


def _files(flask: Flask, source: Source) -> None:
    @flask.get("/files/<name>/<int:trial>/log")
    def log(name: str, trial: int) -> Response:
        text = _or_404(lambda: log_of(source.results(name), trial, LOG_LIMIT, every_attempt=True))
        return _download(text, "text/plain; charset=utf-8", f"{name}-{trial}.log")

    @flask.get("/files/<name>/<int:trial>/checkpoint/<int:step>")
    def checkpoint(name: str, trial: int, step: int) -> Response:
        archive = _or_404(lambda: checkpoint_zip(source.results(name), trial, step))
        return _download(chunks(archive), "application/zip", f"{name}-{trial}-{step}.zip")

    @flask.get("/files/<name>/trials.<form>")
    def trials(name: str, form: str) -> Response:
        if form not in ("csv", "json", "parquet"):
            abort(HTTPStatus.NOT_FOUND)
        results = _or_404(lambda: source.results(name))
        LOADING.pandas()
        frame = results.dataframe()
        if form == "csv":
            guarded = frame.rename(columns=no_formula).map(no_formula)
            return _download(guarded.to_csv(index=False), "text/csv; charset=utf-8", f"{name}.csv")
        if form == "json":
            text = frame.to_json(orient="records", date_format="iso", default_handler=str)
            return _download(text, "application/json", f"{name}.json")
        _or_404(lambda: require("export to Parquet", "pyarrow"))
        plain = frame.astype({c: str for c in frame.columns if frame[c].dtype == object})
        return _download(plain.to_parquet(index=False), "application/vnd.apache.parquet", f"{name}.parquet")

    @flask.get("/files/<name>/sparkline.svg")
    def small(name: str) -> Response:
        return Response(_or_404(lambda: sparkline(source, name)), mimetype="image/svg+xml")

    @flask.get("/files/<name>/figure/<figure>.csv")
    def data(name: str, figure: str) -> Response:
        if figure not in FIGURES:
            abort(HTTPStatus.NOT_FOUND)
        given = request.args
        chosen = [int(each) for each in given.get("trials", "").split(",") if each.isdigit()]
        picture = _or_404(lambda: source.picture(name))
        made = draw(picture, figure, "light", text=given.get("filter", ""), trials=chosen, **read(figure, given))
        return _download(as_csv(made.figure), "text/csv; charset=utf-8", f"{name}-{figure}.csv")


def _or_404(find: Any) -> Any:
    try:
        return find()
    except TunePlatformError as error:
        abort(HTTPStatus.NOT_FOUND, str(error))


def _download(data: Any, kind: str, name: str) -> Response:
    where = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return Response(data, mimetype=kind.partition(";")[0], headers={"Content-Disposition": where})


@contextmanager
def serving(
    storage: str,
    experiment: str | None,
    *,
    port: int = 0,
    control: bool = False,
    listening: socket.socket | None = None,
) -> Iterator[tuple[Any, str]]:
    """Yield a server that listens, and the address of its page; its `serve_forever` answers.

    Port 0 is any free one; with `listening`, a socket that listens already, its own. Raises SpecError where the port
    is in use, ExperimentError where there is no such experiment.
    """
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line a request
    source = Source(storage, experiment)
    if experiment is not None:
        source.picture(experiment)  # what cannot be read is told at once
    listening = _listen(port) if listening is None else listening
    port = listening.getsockname()[1]
    guard = Guard(port, control=control)
    server = make_server(HOST, port, make_app(source, guard), threaded=True, fd=listening.fileno())
    page = "/" if experiment is None else f"/e/{quote(experiment, safe='')}"
    try:
        yield server, f"http://{HOST}:{port}{page}" + (f"#token={guard.token}" if guard.token else "")
    finally:
        server.server_close()
        listening.close()


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listening.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise SpecError(f"port {port} is in use: give another with --port, or --port 0 for a free one") from None
        raise SpecError(f"port {port} cannot be listened on: {error}") from None
    listening.listen(128)
    return listening
