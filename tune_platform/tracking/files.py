"""A line for each report, in one file of JSON lines, or of CSV for each trial. A resumed search appends."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from tune_platform.callbacks import Callback
from tune_platform.tracking.flat import flat


def _line(trial: Any, report: Any) -> dict[str, Any]:
    config = {f"config/{name}": value for name, value in flat(trial.config).items()}
    return {"trial": trial.number, "step": report.step, "time": report.time, **flat(report.metrics), **config}


class JsonLinesTracker(Callback):
    """Writes `reports.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "reports.jsonl"

    def on_report(self, run: Any, trial: Any, report: Any) -> None:
        """Append a line."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_line(trial, report)) + "\n")


class CsvTracker(Callback):
    """Writes `trial-00042.csv`; its columns are those of the trial's first report, others are left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._columns: dict[int, list[str]] = {}

    def on_report(self, run: Any, trial: Any, report: Any) -> None:
        """Append a row, after a head where there is none."""
        path, line = self._folder / f"trial-{trial.number:05}.csv", _line(trial, report)
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists()
        if trial.number not in self._columns:
            with path.open("a+", encoding="utf-8", newline="") as file:
                file.seek(0)
                self._columns[trial.number] = next(csv.reader(file), list(line))
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns[trial.number], extrasaction="ignore")
            if fresh:
                writer.writeheader()
            writer.writerow(line)

    def on_trial_end(self, run: Any, trial: Any) -> None:
        """Forget its columns."""
        self._columns.pop(trial.number, None)
