"""How much slower a search runs while its page is open: in one run, by turns, without it, with it, and with its looks.

    uv run python -m benchmarks.beside --rounds 12 --json

Each round is one run with `--dashboard` on the inline backend, whose trials take some 10 ms of processor time, so that
there is a change of the page at each look. It goes through three parts of `--seconds`, in an order that changes from
round to round, so that what the run gets slower by as it grows falls on each alike. `alone`: nobody has the page open.
`watched`: Chromium on the same processors has. `asked`: a browser elsewhere has, played by something that asks for what
a page asks for, as often, and draws nothing. Between two parts is a pause in which the page opens or closes.

The last line is JSON. `loss`: one less the geometric mean over the rounds of the trials a second, watched to alone
(goal: below 0.03), with its 95 % interval (Student t of the logarithms); `loss_browser_elsewhere` the same of asked to
alone. `opening_s`: so many seconds of the run, once, an opening costs: the trials that were not run in the pause.
`server_cores` and `browser_cores` are what the page's server and Chromium took while watched, in processors, and
`more_processor_time` what the run itself worked more a trial.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, permutations
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

import tune_platform
from benchmarks.dashboard import CHROMIUM
from tune_platform.store.sql import open_store
from tune_platform.trainables.stats import paired_ratio

_SPEC: dict[str, Any] = {
    "version": 1,
    "name": "run",
    "entrypoint": "benchmarks.beside:train",
    "objective": {"metric": "loss", "mode": "min"},
    "space": {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "abcdef"},
    "search": {"name": "random", "seed": 0},
    "budget": {"trials": 10_000_000, "concurrency": 1},
}
ORDERS = tuple(permutations(("alone", "watched", "asked")))
#: Seconds between two parts: a page that was opened has drawn everything once, one that was closed is gone.
PAUSE_S = 8.0


def train(config: dict[str, Any]) -> None:
    """Work, and report ten times."""
    for step in range(10):
        total = sum(i * i for i in range(20_000))
        tune_platform.report({"loss": sum(config.values()) + total * 0 + 1 / (step + 1)})


class Used(NamedTuple):
    """Processor seconds so far: of the run, its page's server, and Chromium."""

    run: float
    server: float
    browser: float


class Part(NamedTuple):
    """A part of a run: when its pause began, when it began and ended (seconds since the epoch), and what was used."""

    opened: float
    began: float
    ended: float
    before: Used
    after: Used


class Found(NamedTuple):
    """What a part did: trials a second, processor seconds of the run a trial, processors taken beside it.

    `opening`: seconds of the run that its pause cost, had it gone on as in the part.
    """

    rate: float
    worked: float
    server: float
    browser: float
    opening: float


def round_of(folder: Path, order: tuple[str, ...], seconds: float, browser: Any) -> dict[str, Found]:
    """Return what the parts of one run did, which is ended after them."""
    file = folder / "run.yaml"
    file.write_text(json.dumps(_SPEC))
    command = [sys.executable, "-m", "tune_platform", "run", str(file), "--backend", "inline", "--storage", str(folder)]
    process = subprocess.Popen([*command, "--dashboard"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        found = (re.search(r"http://127\.0\.0\.1:\S+", line) for line in process.stdout)
        address = next(each.group() for each in found if each)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        urllib.request.urlopen(address, timeout=120).close()  # the server has begun
        parts = {}
        for kind in order:
            opened = time.time()
            with looked_at(kind, address, browser):
                time.sleep(max(0.0, opened + PAUSE_S - time.time()))
                began, before = time.time(), used(process.pid)
                time.sleep(seconds)
                parts[kind] = Part(opened, began, time.time(), before, used(process.pid))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    with open_store(folder) as store, store.open("run", readonly=True) as reader:
        times = np.array([row.time for row in reader.log_rows(("launched",), 0, reader.last_seq())])
    rates = {kind: np.sum((times >= a.began) & (times < a.ended)) / (a.ended - a.began) for kind, a in parts.items()}
    if min(rates.values()) <= 0:
        raise SystemExit("no trial began in a part of the run: give more --seconds")
    return {kind: found_in(part, times, rates[kind], rates["alone"]) for kind, part in parts.items()}


def found_in(part: Part, times: np.ndarray[Any, Any], rate: float, alone: float) -> Found:
    """Return what a part did; `alone`: trials a second of the same run without its page."""
    seconds = part.ended - part.began
    run, server, browser = (after - before for before, after in zip(part.before, part.after, strict=True))
    paused = np.sum((times >= part.opened) & (times < part.began)) / alone
    opening = part.began - part.opened - float(paused)
    return Found(rate, run / (rate * seconds), server / seconds, browser / seconds, opening)


@contextmanager
def looked_at(kind: str, address: str, browser: Any) -> Iterator[None]:
    """Have the page open in Chromium, ask for what it asks for, or do nothing."""
    if kind == "watched":
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#history .js-plotly-plot", timeout=120_000)
        yield
        page.close()
    elif kind == "asked":
        ended = threading.Event()
        client = threading.Thread(target=look, args=(address, ended), daemon=True)
        client.start()
        yield
        ended.set()
        client.join()
    else:
        yield


def look(address: str, ended: threading.Event) -> None:
    """Ask for what a page asks for, until it is ended: small looks, at every tenth one the figures."""
    where = f"{address.rpartition('/e/')[0]}/live"
    asked: dict[str, Any] = {"name": "run", "revision": 0}
    for turn in count():
        figures: dict[str, Any] = {"history": {}, "curves": {}} if turn % 10 == 0 else {}
        body = json.dumps({**asked, "figures": figures}).encode()
        request = urllib.request.Request(where, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            asked["revision"] = json.loads(answer.read() or b"{}").get("revision", asked["revision"])
        if ended.wait(1.5):
            return


def used(run: int) -> Used:
    """Return the processor seconds so far of a run, of its page's server, and of this process's Chromium."""
    parents, seconds, commands = {}, {}, {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with suppress(OSError):
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                number = int(place.name)
                parents[number], ticks = int(fields[1]), sum(map(int, fields[11:13]))
                seconds[number] = ticks / os.sysconf("SC_CLK_TCK")
                commands[number] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")

    def below(number: int, top: int) -> bool:
        return number == top or (number in parents and below(parents[number], top))

    def all_of(words: str, top: int) -> float:
        return sum(seconds[each] for each, command in commands.items() if words in command and below(each, top))

    return Used(seconds[run], all_of("tune_platform dashboard", run), all_of("chrom", os.getpid()))


def main() -> None:
    """Run the rounds, and print what was found."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the three parts of a round")
    parser.add_argument("--json", action="store_true", help="only the last line")
    given = parser.parse_args()
    rounds: list[dict[str, Found]] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for turn in range(given.rounds):
            with tempfile.TemporaryDirectory() as folder:
                rounds.append(round_of(Path(folder), ORDERS[turn % len(ORDERS)], given.seconds, browser))
            if not given.json:
                said = (f"{kind} {each.rate:.1f} trials/s" for kind, each in sorted(rounds[-1].items()))
                print(*said, sep=", ", flush=True)
        browser.close()
    print(json.dumps(told(rounds)))


def told(rounds: list[dict[str, Found]]) -> dict[str, Any]:
    """Return the last line."""
    rates = {kind: [each[kind].rate for each in rounds] for kind in ORDERS[0]}
    watched, asked = (paired_ratio(rates[kind], rates["alone"]) for kind in ("watched", "asked"))
    middle = {
        "opening_s": median(each["watched"].opening for each in rounds),
        "server_cores": median(each["watched"].server for each in rounds),
        "browser_cores": median(each["watched"].browser for each in rounds),
        "more_processor_time": median(each["watched"].worked / each["alone"].worked for each in rounds) - 1,
        "trials_a_second": median(rates["alone"]),
    }
    found: dict[str, Any] = {
        "loss": 1 - watched.mean,
        "loss_interval": [1 - watched.high, 1 - watched.low],
        "loss_browser_elsewhere": 1 - asked.mean,
        "loss_browser_elsewhere_interval": [1 - asked.high, 1 - asked.low],
        **middle,
        "ratios": [each["watched"].rate / each["alone"].rate for each in rounds],
    }
    return {
        name: [rounded(x) for x in each] if isinstance(each, list) else rounded(each) for name, each in found.items()
    }


def rounded(value: float) -> float | None:
    """Return a number of four digits after the point; None for what one round does not tell."""
    return round(float(value), 4) if np.isfinite(value) else None


if __name__ == "__main__":
    main()
