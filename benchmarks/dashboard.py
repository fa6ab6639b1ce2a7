"""How long the page takes to its first view, and a filter, beside optuna-dashboard on the same trials in one run.

    uv run --group benchmarks python benchmarks/dashboard.py --quick --json

The first view is there when the history, the curves and the table are drawn; that of optuna-dashboard when the history
of its overview is. Medians of `--repeat`, in turn, in Chromium. The last line of the output is JSON:
`first_view_ratio_to_optuna_dashboard` (goal: at most 0.5), `first_view_s` (goal: below 2 with 1,000 reports a trial),
`filter_ms` (goal: below 200), `server_mb` (goal: below 500), and what a page took of memory, `page_mb`. `--quick`: 10
reports a trial, 3 turns. `--alone` leaves optuna-dashboard out, which 100,000 trials are too many for:

    uv run python -m benchmarks.dashboard --alone --trials 100000 --reports 3 --repeat 3 --json
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tune_platform.store.records import LogRow, ReportRow, TrialRow
from tune_platform.store.sql import open_store

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
#: Milliseconds that the page waits for another letter.
WAIT = 120
_SPEC: dict[str, Any] = {
    "objective": {"metric": "loss", "mode": "min"},
    "space": {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "abcdef"},
}


def configs(trials: int) -> np.ndarray[Any, Any]:
    """Return the parameters of all trials."""
    return np.random.default_rng(0).random((trials, 6))


def write_ours(folder: Path, trials: int, reports: int) -> None:
    """Write a finished experiment."""
    table = configs(trials)
    with open_store(folder) as store, store.create("many", _SPEC, created=1e9) as experiment:
        seq = 0
        for first in range(0, trials, 100):
            log, told, rows = [], [], []
            for number in range(first, min(first + 100, trials)):
                seq += 1
                loss = float(((table[number] - 0.5) ** 2).sum())
                log.append(LogRow(seq, 1e9 + number, "launched", number, {"attempt": 1, "nodes": [0]}))
                told += [
                    ReportRow(number, step, seq, 1e9 + number + step, {"loss": loss + 1 / step})
                    for step in range(1, reports + 1)
                ]
                rows.append(
                    TrialRow(
                        trial=number, status="COMPLETED",
                        config=dict(zip("abcdef", table[number].tolist(), strict=True)),
                        step=reports, metrics={"loss": loss + 1 / reports}, best=loss + 1 / reports, best_step=reports,
                        created=1e9 + number, started=1e9 + number, ended=1e9 + number + reports, worker="node:1",
                    )
                )  # fmt: skip
            experiment.append(log, told, rows)


def write_optuna(file: Path, trials: int) -> str:
    """Write the same trials as a study, and return the storage as optuna-dashboard takes it.

    Without their reports, to be fair: with ten each it sends 22 MB and draws ten thousand curves.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

    class Collected(BaseJournalBackend):
        """A journal in memory: the one in a file is locked and synchronised for each row."""

        def __init__(self) -> None:
            self.rows: list[dict[str, Any]] = []

        def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
            return iter(self.rows[log_number_from:])

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            self.rows += json.loads(json.dumps(logs))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = Collected()
    study = optuna.create_study(storage=JournalStorage(journal), study_name="many")
    space: dict[str, Any] = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in "abcdef"}
    study.add_trials(
        optuna.trial.create_trial(
            params=dict(zip("abcdef", row.tolist(), strict=True)),
            distributions=space,
            value=float(((row - 0.5) ** 2).sum()),
        )
        for row in configs(trials)
    )
    JournalFileBackend(str(file)).append_logs(journal.rows)
    return str(file)


@contextmanager
def served(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until it answers, and end it afterwards."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30).close()
                break
            except OSError:
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def memory_mb(process: int) -> float:
    """Return the most memory that a process has taken, in megabytes."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


OURS = """() => document.querySelector('#history .js-plotly-plot .gl-canvas, #history .js-plotly-plot .points path')
    && document.querySelector('#curves .js-plotly-plot .lines path')
    && document.querySelectorAll('#table .ag-center-cols-container .ag-row').length > 5"""
THEIRS = "() => document.querySelector('.js-plotly-plot .points path, .js-plotly-plot .gl-canvas')"


def first_view(browser: Any, address: str, drawn: str) -> tuple[Any, float]:
    """Return a new page, and the seconds until it is drawn."""
    page = browser.new_context(viewport={"width": 1280, "height": 1600}).new_page()
    begin = time.perf_counter()
    page.goto(address)
    page.wait_for_function(drawn, timeout=120_000)
    return page, time.perf_counter() - begin


def page_mb(page: Any) -> float:
    """Return the megabytes that the scripts of a page hold."""
    told = page.context.new_cdp_session(page)
    told.send("Performance.enable")
    found = {each["name"]: each["value"] for each in told.send("Performance.getMetrics")["metrics"]}
    return float(found["JSHeapUsedSize"]) / 1e6


def filtered(page: Any) -> float:
    """Return the milliseconds from the last letter of a filter, less the page's own wait for more, to the count."""
    page.wait_for_timeout(1500)  # all has been drawn; networkidle never comes to a page that looks for news
    page.get_by_label("Filter").first.fill("a < 0.5 and loss < 10")
    begin = time.perf_counter()
    page.wait_for_function("() => / of [0-9,]+ trials pass/.test(document.querySelector('#filter-said').innerText)")
    return (time.perf_counter() - begin) * 1000 - WAIT


def main() -> None:
    """Measure, and print what was found."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="only the last line")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--reports", type=int)
    parser.add_argument("--repeat", type=int)
    parser.add_argument("--alone", action="store_true", help="without optuna-dashboard")
    given = parser.parse_args()
    reports, repeat = given.reports or (10 if given.quick else 1000), given.repeat or (3 if given.quick else 5)
    ours: list[float] = []
    theirs: list[float] = []
    filters: list[float] = []
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_ours(Path(folder, "ours"), given.trials, reports)
        one, other = free_port(), free_port()
        command = [sys.executable, "-m", "tune_platform", "dashboard", "many", "--port", str(one), "--storage"]
        server = stack.enter_context(served([*command, str(Path(folder, "ours"))], one))
        if not given.alone:
            study = write_optuna(Path(folder, "study.log"), given.trials)
            program = str(Path(sys.executable).parent / "optuna-dashboard")
            stack.enter_context(served([program, study, "--port", str(other)], other))
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        for _ in range(repeat):
            page, seconds = first_view(browser, f"http://127.0.0.1:{one}/e/many", OURS)
            ours.append(seconds)
            filters.append(filtered(page))
            memory.append(page_mb(page))
            page.context.close()
            if given.alone:
                continue
            page, seconds = first_view(browser, f"http://127.0.0.1:{other}/dashboard/studies/0", THEIRS)
            theirs.append(seconds)
            page.context.close()
        taken = memory_mb(server.pid)
        browser.close()
    found = {
        "trials": given.trials,
        "reports_a_trial": reports,
        "first_view_ratio_to_optuna_dashboard": round(median(ours) / median(theirs), 3) if theirs else None,
        "first_view_s": round(median(ours), 2),
        "optuna_dashboard_first_view_s": round(median(theirs), 2) if theirs else None,
        "filter_ms": round(median(filters)),
        "server_mb": round(taken),
        "page_mb": round(median(memory)),
    }
    if not given.json:
        print(*(f"{name}: {value}" for name, value in found.items()), sep="\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
