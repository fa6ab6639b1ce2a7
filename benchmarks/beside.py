"""How much slower a search runs while its page is open: within one run, by turns of some seconds, with and without it.

    uv run python -m benchmarks.beside --json                          # 10 minutes
    uv run python -m benchmarks.beside --page elsewhere --json         # a browser on another machine
    uv run python -m benchmarks.beside --page none --json              # nothing is open: the interval has to cover 0
    uv run python -m benchmarks.beside --page none --plant 0.05 --json # a loss of 5 % is made: it has to be seen

A run is `--dashboard` on the inline backend, whose trials take some 10 ms of processor time, so that there is a change
of the page at each look. Its page is opened once. Then it goes on for `--turn` seconds, and is halted for as long
(SIGSTOP to its server and to Chromium), in the order off, on, on, off. Each such block of four turns gives one ratio of
trials a second, on to off: what the run gets slower by as it grows, and what drifts on the machine over more than some
seconds, falls on both alike. A page that goes on after a halt catches up with what came meanwhile, which one that is
always open never has to: it does so in the seconds between an off and an on, which count for neither. There are
`--runs` runs of `--blocks` blocks each, so that the experiment does not outgrow what is common.

`--page`: `here`, Chromium on the same processors; `elsewhere`, something asks for what a page asks for, as often, and
draws nothing; `none`, nothing does, to test the estimate itself, with `--plant` by halting the run for that share of
the turns that are on.

The last line is JSON. `loss`: one less the mean of the logarithms of the ratios, of which a fifth at either end is left
out (goal: below 0.03), with its 95 % interval (Student t of a trimmed mean: Tukey and McLaughlin 1963, Sankhya A 25).
`opening_s`: so many seconds of the run, once, an opening costs: the trials that were not run meanwhile. `server_cores`
and `browser_cores` are what the page's server and Chromium took while they went on, in processors.

The loss has two parts, told with their intervals: `less_running`, by how much less the run had a processor, which
hardly any noise of the machine touches, and `more_processor_time`, what it worked more a trial, in which all of it
lies: how fast the processors are goes up and down by some per cent from one turn to the next, page or not.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

import tune_platform
from benchmarks.dashboard import CHROMIUM
from tune_platform.store.sql import open_store

_SPEC: dict[str, Any] = {
    "version": 1,
    "name": "run",
    "entrypoint": "benchmarks.beside:train",
    "objective": {"metric": "loss", "mode": "min"},
    "space": {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "abcdef"},
    "search": {"name": "random", "seed": 0},
    "budget": {"trials": 10_000_000, "concurrency": 1},
}
#: Whether the page goes on, of the turns of a block: what drifts evenly falls on both alike.
BLOCK = (False, True, True, False)
#: Seconds between turns with and without the page, in which it goes on and which count for neither.
BETWEEN_S = 4.0
#: Seconds until a page that was opened has drawn everything once.
OPENING_S = 10.0
#: The share that is left out at either end, of the ratios in order.
TRIM = 0.2


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


class Turn(NamedTuple):
    """When a turn began and ended (seconds since the epoch), whether the page went on, and what was used."""

    on: bool
    began: float
    ended: float
    before: Used
    after: Used


class Block(NamedTuple):
    """What a block tells: trials a second with the page and without, and processor seconds of the run a trial."""

    on: float
    off: float
    worked_on: float
    worked_off: float
    server: float  #: processors that the page's server took while it went on
    browser: float


class Interval(NamedTuple):
    """A loss with its 95 % interval; NaN where there are too few blocks for one."""

    loss: float
    low: float
    high: float


def run_of(folder: Path, given: argparse.Namespace, browser: Any) -> tuple[list[Block], float]:
    """Return the blocks of one run, which is ended after them, and the seconds that opening its page cost."""
    file = folder / "run.yaml"
    file.write_text(json.dumps(_SPEC))
    command = [sys.executable, "-m", "tune_platform", "run", str(file), "--backend", "inline", "--storage", str(folder)]
    process = subprocess.Popen([*command, "--dashboard"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    turns: list[Turn] = []
    try:
        found = (re.search(r"http://127\.0\.0\.1:\S+", line) for line in process.stdout)
        address = next(each.group() for each in found if each)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        urllib.request.urlopen(address, timeout=120).close()  # the server has begun
        time.sleep(2)
        opened = time.time()
        with looked_at(given.page, address, browser):
            time.sleep(max(0.0, opened + OPENING_S - time.time()))
            for on in BLOCK * given.blocks:
                if turns and on is not turns[-1].on:
                    time.sleep(BETWEEN_S)
                turns.append(turn_of(on, process.pid, given))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    with open_store(folder) as store, store.open("run", readonly=True) as reader:
        times = np.array([row.time for row in reader.log_rows(("launched",), 0, reader.last_seq())])
    blocks = [block_of(turns[at : at + len(BLOCK)], times) for at in range(0, len(turns), len(BLOCK))]
    inside = np.sum((times >= opened) & (times < opened + OPENING_S))
    return blocks, OPENING_S - float(inside) / median(each.off for each in blocks)


def turn_of(on: bool, run: int, given: argparse.Namespace) -> Turn:
    """Let one turn pass; afterwards everything goes on."""
    beside = [] if on or given.page == "none" else [each for kind in members(run).values() for each in kind]
    with halted(beside):
        began, before = time.time(), used(run)
        if on and given.plant:
            planted(run, given.plant, began + given.turn)
        else:
            time.sleep(given.turn)
        return Turn(on, began, time.time(), before, used(run))


@contextmanager
def halted(processes: Sequence[int]) -> Iterator[None]:
    """Halt processes of ours meanwhile."""
    for each in processes:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in processes:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)


def planted(run: int, share: float, until: float) -> None:
    """Halt the run for a share of the time, in pieces of some 20 ms."""
    while (began := time.time()) < until:
        with halted([run]):
            time.sleep(0.02)
        time.sleep(max(0.0, min((time.time() - began) * (1 / share - 1), until - time.time())))


def block_of(turns: Sequence[Turn], times: np.ndarray[Any, Any]) -> Block:
    """Return what some turns tell; `times`: when the trials began. Raises SystemExit where none did in a turn."""

    def of(on: bool) -> tuple[float, float, Used]:
        mine = [each for each in turns if each.on is on]
        seconds = sum(each.ended - each.began for each in mine)
        trials = sum(int(np.sum((times >= each.began) & (times < each.ended))) for each in mine)
        if not trials:
            raise SystemExit("no trial began in a turn: give a longer --turn")
        taken = Used(*(sum(each.after[at] - each.before[at] for each in mine) for at in range(3)))
        return trials / seconds, taken.run / trials, Used(*(each / seconds for each in taken))

    (rate, worked, taken), (rate_off, worked_off, _) = of(True), of(False)
    return Block(rate, rate_off, worked, worked_off, taken.server, taken.browser)


def loss_of(ratios: Sequence[float], level: float = 0.95) -> Interval:
    """Return the loss with its interval: of a trimmed mean of logarithms; its error is that of winsorised ones."""
    logs = np.sort(np.log(ratios))
    n, cut = len(logs), int(TRIM * len(logs))
    mean = float(np.mean(logs[cut : n - cut]))
    if n - 2 * cut < 2:
        return Interval(1 - float(np.exp(mean)), float("nan"), float("nan"))
    winsorised = np.clip(logs, logs[cut], logs[n - 1 - cut])
    error = float(np.std(winsorised, ddof=1)) * np.sqrt(n) / (n - 2 * cut)
    reach = float(stats.t.ppf(0.5 + level / 2, n - 2 * cut - 1)) * error
    return Interval(*(1 - float(np.exp(each)) for each in (mean, mean + reach, mean - reach)))


@contextmanager
def looked_at(kind: str, address: str, browser: Any) -> Iterator[None]:
    """Have the page open in Chromium, ask for what it asks for, or do nothing."""
    if kind == "here":
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#history .js-plotly-plot", timeout=120_000)
        yield
        page.close()
    elif kind == "elsewhere":
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


def members(run: int) -> dict[str, list[int]]:
    """Return the processes of a run's page server, and of this process's Chromium."""
    parents, commands = {}, {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with suppress(OSError):
                number = int(place.name)
                parents[number] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                commands[number] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")

    def below(number: int, top: int) -> bool:
        return number == top or (number in parents and below(parents[number], top))

    def all_of(words: str, top: int) -> list[int]:
        return [each for each, command in commands.items() if words in command and below(each, top)]

    return {"server": all_of("tune_platform dashboard", run), "browser": all_of("chrom", os.getpid())}


def used(run: int) -> Used:
    """Return the processor seconds so far of a run, of its page's server, and of this process's Chromium."""
    found = members(run)
    return Used(*(sum(map(seconds_of, each)) for each in ([run], found["server"], found["browser"])))


def seconds_of(process: int) -> float:
    """Return the processor seconds of a process so far; none of one that has ended."""
    with suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / float(os.sysconf("SC_CLK_TCK"))
    return 0.0


def main() -> None:
    """Go through the runs, and print what was found."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=3, help="of each run, of four turns each")
    parser.add_argument("--turn", type=float, default=10.0, help="seconds of a turn")
    parser.add_argument("--page", choices=("here", "elsewhere", "none"), default="here")
    parser.add_argument("--plant", type=float, default=0.0, help="a loss that is made, such as 0.05")
    parser.add_argument("--json", action="store_true", help="only the last line")
    given = parser.parse_args()
    blocks: list[Block] = []
    opening: list[float] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(given.runs):
            with tempfile.TemporaryDirectory() as folder:
                more, cost = run_of(Path(folder), given, browser)
            blocks += more
            opening.append(cost)
            if not given.json:
                print(*(f"{each.on:.1f}/{each.off:.1f}" for each in more), "trials/s, on/off", flush=True)
        browser.close()
    print(json.dumps(told(blocks, opening)))


def told(blocks: Sequence[Block], opening: Sequence[float]) -> dict[str, Any]:
    """Return the last line."""
    loss, *interval = loss_of([each.on / each.off for each in blocks])
    less, *less_interval = loss_of([each.on * each.worked_on / (each.off * each.worked_off) for each in blocks])
    more, *more_interval = loss_of([each.worked_off / each.worked_on for each in blocks])
    found: dict[str, Any] = {
        "loss": loss,
        "loss_interval": interval,
        "less_running": less,
        "less_running_interval": less_interval,
        "more_processor_time": more,
        "more_processor_time_interval": more_interval,
        "opening_s": median(opening),
        "server_cores": median(each.server for each in blocks),
        "browser_cores": median(each.browser for each in blocks),
        "trials_a_second": median(each.off for each in blocks),
        "ratios": [each.on / each.off for each in blocks],
    }
    return {
        name: [rounded(x) for x in each] if isinstance(each, list) else rounded(each) for name, each in found.items()
    }


def rounded(value: float) -> float | None:
    """Return a number of four digits after the point; None for what one block does not tell."""
    return round(float(value), 4) if np.isfinite(value) else None


if __name__ == "__main__":
    main()
