"""How much slower a search runs while its page is open: rounds of runs without, with it, and with its looks.

    uv run python -m benchmarks.beside --rounds 6 --json

Each run is a process of its own on the inline backend; a trial takes some 20 ms of processor time, so that there is a
change of the page at each look. `alone` has no page, `watched` has `--dashboard` and Chromium on the same processors,
`asked` has `--dashboard` and a browser elsewhere: something that asks for what a page asks for, as often, and draws
nothing. The last line is JSON: `loss` is one less the median ratio of the trials a second, watched to alone, of the
rounds (goal: below 0.03), `loss_browser_elsewhere` the same of asked to alone; the order within a round alternates.
`server_cores` and `browser_cores` are what the page's server and Chromium took while watched, in processors;
`more_processor_time` is what the run itself worked more.
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
import time
import urllib.request
from contextlib import suppress
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

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


KINDS = ("alone", "watched", "asked")


class Found(NamedTuple):
    """What a run did: trials a second since its page was there, processor seconds; processors taken beside it."""

    rate: float
    worked: float
    server: float
    browser: float


def run(folder: Path, trials: int, kind: str, browser: Any) -> Found:
    """Run a search to its end."""
    spec = {**_SPEC, "name": kind, "budget": {"trials": trials, "concurrency": 1}}
    file = folder / f"{kind}.yaml"
    file.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "tune_platform", "run", str(file), "--backend", "inline", "--storage", str(folder)]
    command += ["--dashboard"] if kind != "alone" else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    page, client = None, None
    if kind != "alone":
        address = next(
            found.group() for line in process.stdout if (found := re.search(r"http://127\.0\.0\.1:\S+", line))
        )
        if kind == "watched":
            page = browser.new_page()
            page.goto(address)
            page.wait_for_selector("#history .js-plotly-plot", timeout=120_000)
        else:
            client = threading.Thread(target=look, args=(address, kind), daemon=True)
            client.start()
    threading.Thread(target=process.stdout.read, daemon=True).start()
    opened, began, before = time.time(), time.monotonic(), used("chrom")
    server = former = used("tune_platform dashboard", process.pid)
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        server = max(server, used("tune_platform dashboard", process.pid))  # it ends with the run
        time.sleep(0.2)
    seconds = time.monotonic() - began
    chromium = used("chrom") - before
    _, _, spent = os.wait4(process.pid, 0)
    if page:
        page.close()
    with open_store(folder) as store, store.open(kind, readonly=True) as reader:
        rows = [row.time for row in reader.log_rows(("launched", "finished"), 0, reader.last_seq())]
    first = max(len(rows) // 3, sum(each < opened for each in rows))
    if len(rows) - first < 20:
        raise SystemExit(f"the run of {trials} trials ended before its page was there: give more by --trials")
    rate = (len(rows) - 1 - first) / (rows[-1] - rows[first])
    return Found(rate, spent.ru_utime + spent.ru_stime, (server - former) / seconds, chromium / seconds)


def look(address: str, name: str) -> None:
    """Ask for what a page asks for, until nobody answers: small looks, at every third one the figures."""
    where = f"{address.rpartition('/e/')[0]}/live"
    asked: dict[str, Any] = {"name": name, "revision": 0}
    for turn in count():
        figures: dict[str, Any] = {"history": {}, "curves": {}} if turn % 3 == 0 else {}
        body = json.dumps({**asked, "figures": figures}).encode()
        request = urllib.request.Request(where, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                asked["revision"] = json.loads(answer.read() or b"{}").get("revision", asked["revision"])
        except OSError:
            return
        time.sleep(1.5)


def used(words: str, parent: int | None = None) -> float:
    """Return the processor seconds of the processes below one, this one by default, whose command has these words."""
    parents, seconds, commands = {}, {}, {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with suppress(OSError):
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                number = int(place.name)
                parents[number], seconds[number] = (
                    int(fields[1]),
                    sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK"),
                )
                commands[number] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")

    def below(number: int) -> bool:
        return number == (parent or os.getpid()) or (number in parents and below(parents[number]))

    return sum(seconds[each] for each, command in commands.items() if words in command and below(parents[each]))


def main() -> None:
    """Run the rounds, and print what was found."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--trials", type=int, default=1500)
    parser.add_argument("--json", action="store_true", help="only the last line")
    given = parser.parse_args()
    rounds: list[dict[str, Found]] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for turn in range(given.rounds):
            found = {}
            for kind in KINDS if turn % 2 else KINDS[::-1]:
                with tempfile.TemporaryDirectory() as folder:
                    found[kind] = run(Path(folder), given.trials, kind, browser)
            rounds.append(found)
            if not given.json:
                print(*(f"{kind} {each.rate:.1f} trials/s" for kind, each in found.items()), sep=", ", flush=True)
        browser.close()
    ratios = [each["watched"].rate / each["alone"].rate for each in rounds]
    told = {
        "loss": 1 - median(ratios),
        "loss_browser_elsewhere": 1 - median(each["asked"].rate / each["alone"].rate for each in rounds),
        "server_cores": median(each["watched"].server for each in rounds),
        "browser_cores": median(each["watched"].browser for each in rounds),
        "more_processor_time": median(each["watched"].worked / each["alone"].worked for each in rounds) - 1,
    }
    print(json.dumps({name: round(each, 4) for name, each in told.items()} | {"ratios": [round(x, 3) for x in ratios]}))


if __name__ == "__main__":
    main()
