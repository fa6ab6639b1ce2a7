"""Reads tables of runs that other trackers export as CSV or JSON: a row for each run.

    MLflow        mlflow.search_runs().to_csv(...), `mlflow experiments csv`: columns params.NAME, metrics.NAME
                  the answer of its REST API `runs/search`: {"runs": [{"info": ..., "data": ...}]}
    W&B           columns name, config, summary, as the table of its API; or the page's own table of runs
    tune-platform `export`: columns config/NAME, metrics/NAME

The page's own table of W&B does not say which columns are parameters: `parameters` names them.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tune_platform.errors import ExperimentError, SpecError, did_you_mean
from tune_platform.recording.recording import Recording

_CONFIG = ("params.", "config/", "config.", "params/")
_METRICS = ("metrics.", "metrics/", "summary.", "summary/")
_STATUS = ("status", "state", "State")
_BEGAN = ("start_time", "created", "created_at", "Created", "started")
_ENDED = ("end_time", "ended", "heartbeatAt", "End Time")
_NAMES = ("run_id", "id", "ID", "name", "Name", "trial")
#: Columns of W&B's own table that are neither.
_ASIDE = {"Notes", "User", "Tags", "Runtime", "Sweep", "notes", "tags", "Hostname", *_STATUS, *_BEGAN, *_ENDED, *_NAMES}
_FAILED = {"failed", "crashed", "killed"}


class Run(NamedTuple):
    """One run of a table; times are seconds since the epoch."""

    name: str
    status: str
    config: dict[str, Any]
    curves: list[dict[str, Any]]  # what it reported, oldest first
    began: float
    ended: float


class RunTable:
    """The runs of a file. Raises ExperimentError where it is none that is known, SpecError for unknown `parameters`."""

    def __init__(self, path: Path, parameters: Sequence[str] = ()) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8-sig")
            rows = _cells(text) if path.suffix.lower() in (".csv", ".tsv") else _records(text)
        except (OSError, ValueError, csv.Error) as error:
            raise ExperimentError(f"{path} cannot be read: {error}") from error
        known = list(dict.fromkeys(name for row in rows for name in row))
        for name in parameters:
            if name not in known:
                raise SpecError(f"--parameters: there is no column {name!r}{did_you_mean(name, known)}: {known}")
        written = path.stat().st_mtime  # for runs that do not say when they were
        self.runs = [_run(row, set(parameters), written) for row in rows]
        if not any(run.config or run.curves for run in self.runs):
            raise ExperimentError(
                f"{path}: none of its columns is known to be a parameter or a metric (params.NAME, metrics.NAME, "
                "config, summary ...). Say with --parameters NAME,NAME which columns are parameters; the other numbers "
                f"are metrics then. The columns: {', '.join(known) or 'none'}"
            )

    @property
    def began(self) -> float:
        """When its first run began, in seconds since the epoch."""
        return min((run.began for run in self.runs), default=0.0)

    def metric_names(self) -> list[str]:
        """Names of all numbers that were reported."""
        return list(
            dict.fromkeys(
                name
                for run in self.runs
                for report in run.curves
                for name, value in report.items()
                if isinstance(value, (int, float)) and not isinstance(value, bool)
            )
        )

    def record(self, recording: Recording) -> None:
        """Write all of it."""
        for run in self.runs:
            number = recording.add(run.config, run.began, key=run.name)
            recording.start(number, run.began)
            for report in run.curves:
                recording.report(number, report, run.ended)
            if run.status.lower() in _FAILED:
                recording.fail(number, run.ended, f"the run is {run.status}")
            elif run.status.lower() in ("running", "scheduled"):
                recording.stop(number, run.ended, "it was running when it was exported")
            else:
                recording.complete(number, run.ended)
            recording.write()
        recording.finish("finished", f"imported from {self.path}", max((run.ended for run in self.runs), default=0.0))


def _cells(text: str) -> list[dict[str, Any]]:
    """Return the rows of a table whose cells are apart by what the head has most of: commas, semicolons or tabs."""
    head = text.partition("\n")[0]
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a summary may be long
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count)))


def _records(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except ValueError:
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(found, Mapping):
        found = found.get("runs", found.get("data", [found]))
    return [_flattened(each) if "info" in each else dict(each) for each in found if isinstance(each, Mapping)]


def _flattened(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run of MLflow's REST API as a row; metrics with steps stay a history."""
    data = run.get("data", {})
    history: dict[int, dict[str, Any]] = {}
    for each in data.get("metrics", ()):
        history.setdefault(int(each.get("step", 0)), {})[each["key"]] = each["value"]
    return {
        **{f"params.{each['key']}": each["value"] for each in data.get("params", ())},
        **{name: run["info"].get(name) for name in ("run_id", "status", "start_time", "end_time")},
        "history": [history[step] for step in sorted(history)],
    }


def _run(row: Mapping[str, Any], parameters: set[str], written: float) -> Run:
    config: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for name, cell in row.items():
        value = _value(cell)
        if name is None or value is None:
            continue
        prefix = next((each for each in (*_CONFIG, *_METRICS) if name.startswith(each)), "")
        if prefix or name in parameters:
            (config if prefix in _CONFIG or name in parameters else last)[name[len(prefix) :]] = value
        elif name in ("config", "summary") and isinstance(value, Mapping):
            found = {key: item for key, item in value.items() if not str(key).startswith("_")}
            (config if name == "config" else last).update({key: _unwrapped(item) for key, item in found.items()})
        elif parameters and name not in _ASIDE and isinstance(value, (int, float)):
            last[name] = value
    began = next((time for name in _BEGAN if (time := _time(row.get(name)))), written)
    ended = next((time for name in _ENDED if (time := _time(row.get(name)))), began)
    curves = row.get("history") or ([last] if last else [])
    name = next((str(row[name]) for name in _NAMES if row.get(name)), "")
    status = next((str(row[name]) for name in _STATUS if row.get(name)), "finished")
    return Run(name, status, config, curves, began, max(began, ended))


def _unwrapped(value: Any) -> Any:
    """W&B's files have a config's values as {"desc": ..., "value": ...}."""
    return value["value"] if isinstance(value, Mapping) and set(value) == {"desc", "value"} else value


def _value(cell: Any) -> Any:
    """Return what a cell of text says: a number, a mapping in JSON or as Python prints it, a truth value, or a text."""
    if not isinstance(cell, str):
        return None if isinstance(cell, float) and math.isnan(cell) else cell
    text = cell.strip()
    if not text:
        return None
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    if text in ("True", "False", "true", "false"):
        return text.lower() == "true"
    if text[:1] in "{[":
        for read in (json.loads, _literal):
            try:
                return read(text)
            except (ValueError, SyntaxError):
                continue
    return text


class _Numbers(ast.NodeTransformer):
    """Makes numbers of the words that Python prints for those that are none."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(float(node.id)) if node.id in ("nan", "inf") else node


def _literal(text: str) -> Any:
    return ast.literal_eval(_Numbers().visit(ast.parse(text, mode="eval")))


def _time(cell: Any) -> float:
    """Return seconds since the epoch of a number of (milli)seconds, or of a date; 0 where it is neither."""
    value = _value(cell)
    if isinstance(value, (int, float)):
        return value / 1000 if value > 1e11 else float(value)
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return 0.0
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
