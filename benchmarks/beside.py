"""How much slower a search runs while its page is open: pairs of runs, with `--dashboard` and Chromium, and without.

    uv run python -m benchmarks.beside --pairs 6 --json

Each run is a process of its own on the inline backend; a trial takes some 20 ms of processor time, so that there is a
change of the page at each look. The last line is JSON: `loss` is one less the median ratio of the trials a second of
the pairs (goal: below 0.03), `ratios` those of all pairs; the order within a pair alternates. The run and Chromium
need a processor each to leave one another alone; `more_processor_time` is what the run itself worked more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from statistics import median
from typing import Any

import tune_platform
from benchmarks.dashboard import CHROMIUM
from tune_platform.store.sql import open_store

_SPEC: dict[str, Any] = {
    "version": 1,
    "entrypoint": "benchmarks.beside:train",
    "objective": {"metric": "loss", "mode": "min"},
    "space": {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "abcdef"},
    "search": {"name": "random", "seed": 0},
}


def train(config: dict[str, Any]) -> None:
    """Work, and report ten times."""
    for step in range(10):
        total = sum(i * i for i in range(20_000))
        tune_platform.report({"loss": sum(config.values()) + total * 0 + 1 / (step + 1)})


def rate(folder: Path, trials: int, browser: Any | None) -> tuple[float, float]:
    """Return the trials a second of the second half of a run, as its log tells, and the run's processor time."""
    name = "watched" if browser else "alone"
    spec = {**_SPEC, "name": name, "budget": {"trials": trials, "concurrency": 1}}
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "tune_platform", "run", str(file), "--backend", "inline", "--storage", str(folder)]
    command += ["--dashboard"] if browser else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    page = None
    if browser:
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\S+", line):
                page = browser.new_page()
                page.goto(found.group())
                page.wait_for_selector("#history .js-plotly-plot", timeout=120_000)
                break
    threading.Thread(target=process.stdout.read, daemon=True).start()
    _, _, used = os.wait4(process.pid, 0)
    if page:
        page.close()
    with open_store(folder) as store, store.open(name, readonly=True) as reader:
        rows = [row.time for row in reader.log_rows(("launched", "finished"), 0, reader.last_seq())]
    half = len(rows) // 2  # the page is open by then
    return (len(rows) - 1 - half) / (rows[-1] - rows[half]), used.ru_utime + used.ru_stime


def main() -> None:
    """Run the pairs, and print what was found."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--trials", type=int, default=600)
    parser.add_argument("--json", action="store_true", help="only the last line")
    given = parser.parse_args()
    ratios: list[float] = []
    work: list[float] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for pair in range(given.pairs):
            found = {}
            for watched in (True, False) if pair % 2 else (False, True):
                with tempfile.TemporaryDirectory() as folder:
                    found[watched] = rate(Path(folder), given.trials, browser if watched else None)
            ratios.append(found[True][0] / found[False][0])
            work.append(found[True][1] / found[False][1])
            if not given.json:
                print(f"alone {found[False][0]:.1f} trials/s, watched {found[True][0]:.1f}", flush=True)
        browser.close()
    told = {"loss": 1 - median(ratios), "more_processor_time": median(work) - 1}
    print(json.dumps({name: round(each, 4) for name, each in told.items()} | {"ratios": [round(x, 3) for x in ratios]}))


if __name__ == "__main__":
    main()
