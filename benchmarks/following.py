"""How old what a page shows of a large search is while the search goes on, and what that costs.

    uv run python -m benchmarks.following --json    # 10,000 trials of 1,000 reports, 20 new trials a second: 4 minutes

A finished experiment is written and goes on: something appends trials as a driver does. Chromium has its page open.
Once a second it is read from the page what the newest trial is that the table, the history (drawn, or put over the
drawing) and the line of the state tell of; its age is how long ago the first trial was written that is not there yet.

The last line is JSON: medians and the greatest of these ages in seconds (goal: below 2), `figure_s` how long the
drawing of the history itself rested at most, and what the page's server and Chromium took, in processors.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.beside import members, seconds_of
from benchmarks.dashboard import CHROMIUM, OURS, first_view, free_port, served, write_ours
from tune_platform.store.records import LogRow, ReportRow, TrialRow
from tune_platform.store.sql import SqlExperiment, open_store

#: The newest trial that each part of the page shows.
SHOWN = """() => {
    const last = (values) => [...values].reduce((a, b) => Math.max(a, Number(b)), -1);
    const drawing = document.querySelector("#history .js-plotly-plot");
    const drawn = drawing._fullData.filter((each) => each.mode === "markers").map((each) => last(each.x));
    const over = [...document.querySelectorAll("#history svg.ahead circle")].map((each) => each.dataset.trial);
    let row = -1;
    window.dash_ag_grid.getApi("table").forEachNode((node) => { row = Math.max(row, node.data.trial); });
    const state = document.querySelector("#status").textContent.match(/([0-9]+) completed/);
    const done = state ? Number(state[1]) - 1 : -1;
    return {table: row, history: last([...drawn, ...over]), state: done, figure: last(drawn)};
}"""


class Writer(threading.Thread):
    """Appends trials, `rate` a second, and notes when each was written."""

    def __init__(self, experiment: SqlExperiment, first: int, rate: float) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.first, self.times = first, list[float]()
        self._experiment, self._rate = experiment, rate
        self._random = np.random.default_rng(1)

    def run(self) -> None:
        """Write until it is ended."""
        while not self.ended.wait(1 / self._rate):
            self._write(self.first + len(self.times))
            self.times.append(time.monotonic())

    def _write(self, number: int) -> None:
        now, seq = time.time(), self._experiment.last_seq() + 1
        config = dict(zip("abcdef", self._random.random(6).tolist(), strict=True))
        loss = sum((each - 0.5) ** 2 for each in config.values())
        told = [ReportRow(number, step, seq, now, {"loss": loss + 1 / step}) for step in range(1, 11)]
        row = TrialRow(
            trial=number, status="COMPLETED", config=config, step=10, metrics={"loss": loss + 0.1}, best=loss + 0.1,
            best_step=10, created=now, started=now, ended=now, worker="node:1",
        )  # fmt: skip
        self._experiment.append([LogRow(seq, now, "launched", number, {"attempt": 1, "nodes": [0]})], told, [row])

    def age(self, shown: int) -> float:
        """Return how long ago the first trial after `shown` was written; 0.0 where there is none."""
        place = max(0, shown + 1 - self.first)
        return time.monotonic() - self.times[place] if place < len(self.times) else 0.0


def ages(page: Any, writer: Writer, seconds: float) -> dict[str, list[float]]:
    """Return the ages of the parts of a page, once a second."""
    found: dict[str, list[float]] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(1.0)
        for name, shown in page.evaluate(SHOWN).items():
            found.setdefault(name, []).append(writer.age(shown))
    return found


def main() -> None:
    """Measure, and print what was found."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=20.0, help="new trials a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true", help="only the last line")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_ours(Path(folder), given.trials, given.reports)
        port = free_port()
        command = [sys.executable, "-m", "tune_platform", "dashboard", "many", "--port", str(port)]
        with open_store(folder) as store, store.open("many") as experiment, sync_playwright() as play:
            experiment.acquire()
            with served([*command, "--storage", folder], port) as server:
                browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                page, _ = first_view(browser, f"http://127.0.0.1:{port}/e/many", OURS)
                page.set_viewport_size({"width": 1280, "height": 2400})  # the table too, which follows where it is seen
                writer = Writer(experiment, given.trials, given.rate)
                writer.start()
                time.sleep(10)
                before, began = taken(server.pid), time.monotonic()
                found = ages(page, writer, given.seconds)
                cores = [(b - a) / (time.monotonic() - began) for a, b in zip(before, taken(server.pid), strict=True)]
                writer.ended.set()
                writer.join()
                browser.close()
    line: dict[str, float] = {"trials": given.trials, "reports_a_trial": given.reports, "trials_a_second": given.rate}
    for name in ("table", "history", "state"):
        line |= {f"{name}_s": median(found[name]), f"{name}_most_s": max(found[name])}
    line |= {"figure_s": max(found["figure"]), "server_cores": cores[0], "browser_cores": cores[1]}
    if not given.json:
        print(*(f"{name}: {value:.3f}" for name, value in line.items()), sep="\n")
    print(json.dumps({name: round(value, 3) for name, value in line.items()}))


def taken(server: int) -> tuple[float, float]:
    """Return the processor seconds so far of the server and of Chromium."""
    return seconds_of(server), sum(map(seconds_of, members(os.getpid())["browser"]))


if __name__ == "__main__":
    main()
