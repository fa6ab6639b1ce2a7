"""The files that Ray Tune leaves in each trial's folder, and which code that evaluates its experiments reads.

params.json     the config
result.json     a line of JSON for each report
progress.csv    a row for each report, in columns of the trial's first one

They are a copy: the store decides, and a driver that was killed may leave out the last second. `error.txt` is written
by whoever calls Ray Tune's callbacks.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tune_platform.callbacks import Callback
from tune_platform.location import Location
from tune_platform.protocol.configs import shown
from tune_platform.protocol.trial_log import folder_of
from tune_platform.ray_tune.nesting import flat
from tune_platform.ray_tune.session import trial_id

PARAMS, RESULTS, PROGRESS = "params.json", "result.json", "progress.csv"
#: Ray Tune's variable that has it write none of them.
_DISABLED = "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"
#: Its loggers, each with the file that it writes where it is among the callbacks.
_LOGGERS = {"JsonLoggerCallback": (RESULTS, PARAMS), "CSVLoggerCallback": (PROGRESS,)}
_PERIOD = 1.0  # seconds for which lines may wait
_WRITE = os.O_WRONLY | os.O_CREAT


def trial_files(storage: str, callbacks: Iterable[Any] = ()) -> list[TrialFiles]:
    """Return a callback that writes the files, without those that one of Ray Tune's `callbacks` writes; or none."""
    bases = {base.__name__ for each in callbacks for base in type(each).__mro__}
    taken = {file for logger, files in _LOGGERS.items() if logger in bases for file in files}
    wanted = frozenset({PARAMS, RESULTS, PROGRESS} - taken)
    if not wanted or os.environ.get(_DISABLED, "0") == "1" or Location(storage).is_url:
        return []
    return [TrialFiles(storage, wanted)]


class TrialFiles(Callback):
    """Writes `files` of each trial, whose folder is in that of the experiment in `storage`."""

    def __init__(self, storage: str, files: frozenset[str]) -> None:
        self._storage, self._files = storage, files
        self._open: dict[int, _Trial] = {}
        self._home = ""
        self._written = 0.0

    def on_report(self, run: Any, trial: Any, report: Any) -> None:
        """Take a line; now and then all are written."""
        one = self._open.get(trial.number)
        if one is None:
            self._home = self._home or str(Path(self._storage).expanduser().absolute() / run.name / "trials")
            folder, began = folder_of(self._home, trial.number), trial.started or report.time
            one = self._open[trial.number] = _Trial(folder, self._files, began)
        one.take(trial, report)
        if (now := time.monotonic()) - self._written > _PERIOD:
            self._written = now
            for each in self._open.values():
                each.write()

    def on_trial_end(self, run: Any, trial: Any) -> None:
        """Write what is left of the trial."""
        if (one := self._open.pop(trial.number, None)) is not None:
            one.write()

    def on_finish(self, run: Any, finish: Any) -> None:
        """Write what is left of those that have not ended."""
        while self._open:
            self._open.popitem()[1].write()


class _Trial:
    """The lines of a trial that wait, and what the next ones need."""

    def __init__(self, folder: str, files: frozenset[str], began: float) -> None:
        self._folder, self._files = folder, files
        self._given: Mapping[str, Any] | None = None
        self._config = ""  # as JSON
        self._lines: list[str] = []
        self._rows: list[Mapping[str, Any]] = []
        self._columns: list[str] = []
        self._began = self._before = began

    def take(self, trial: Any, report: Any) -> None:
        """Take a report as Ray Tune writes it."""
        config = trial.config_at(report.step)
        if config != self._given:  # for the first time, or PBT has changed it
            self._given, self._config = config, json.dumps(shown(dict(config)), default=str)
            if PARAMS in self._files:
                self._append(PARAMS, self._config, os.O_TRUNC)
        result = {
            "timestamp": int(report.time), "training_iteration": report.step, "date": _date(int(report.time)),
            "time_this_iter_s": max(0.0, report.time - self._before),
            "time_total_s": max(0.0, report.time - self._began),
            **report.metrics, "trial_id": trial_id(trial.number), "done": False,
        }  # fmt: skip
        self._before = report.time
        if RESULTS in self._files:
            self._lines.append(f'{json.dumps(result, default=str)[:-1]}, "config": {self._config}}}\n')
        if PROGRESS in self._files:
            self._rows.append(flat(result))

    def write(self) -> None:
        """Append the lines that wait to the files."""
        if self._lines:
            self._append(RESULTS, "".join(self._lines))
        if self._rows:
            text = io.StringIO()
            writer = csv.writer(text)
            if not self._columns:
                self._columns = self._head()
            if not self._columns:
                self._columns = list(self._rows[0])
                writer.writerow(self._columns)
            writer.writerows([row.get(name, "") for name in self._columns] for row in self._rows)
            self._append(PROGRESS, text.getvalue())
        self._lines, self._rows = [], []

    def _head(self) -> list[str]:
        """Return the columns that an earlier driver, or attempt, began the file with; empty where there is none."""
        try:
            with open(f"{self._folder}/{PROGRESS}", encoding="utf-8", newline="") as file:  # noqa: PTH123
                return next(csv.reader(file), [])
        except FileNotFoundError:
            return []

    def _append(self, name: str, text: str, flag: int = os.O_APPEND) -> None:
        """Write to a file in the folder: thousands of trials a minute have three each, so by the shortest way."""
        path = f"{self._folder}/{name}"
        try:
            descriptor = os.open(path, _WRITE | flag, 0o666)
        except FileNotFoundError:  # the trial ran on another node
            Path(self._folder).mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, _WRITE | flag, 0o666)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            data = memoryview(text.encode())
            while data:
                data = data[file.write(data) or 0 :]


@functools.lru_cache(maxsize=8)
def _date(second: int) -> str:
    return time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(second))
