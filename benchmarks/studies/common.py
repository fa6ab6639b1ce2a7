"""What the studies share: their arguments, gangs on a virtual clock, tables, and files beside the docs."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import torch

from tune_platform.distributed import Cost, DistributedTrainable, Gang, LocalGroup
from tune_platform.distributed.group import WorkerGroup
from tune_platform.trainable import DONE, TrialContext

mpl.use("Agg")

Job = TypeVar("Job")
Found = TypeVar("Found")

#: Where the figures of the distributed trainers lie, beside the docs.
OUT = Path("docs/figures/distributed")


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a study is asked for: how many seeds, in short, and where its files go."""

    seeds: int
    quick: bool
    out: Path
    report: bool = False  # train nothing: the tables and figures of what is kept


def arguments(description: str | None, *, seeds: int, quick_seeds: int = 2, keeps: bool = False) -> Arguments:
    """Parse the command line of a study; `seeds` are those of the full one, `keeps`: its json has all that it found."""
    first = (description or "").strip().split("\n")[0]
    parser = argparse.ArgumentParser(description=first)
    parser.add_argument("--quick", action="store_true", help=f"few steps, {quick_seeds} seeds: does it run at all?")
    parser.add_argument("--seeds", type=int, help=f"number of paired seeds (default {seeds})")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder for the png and the json (default {OUT})")
    if keeps:
        parser.add_argument("--report", action="store_true", help="train nothing: tables and figures of the json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    count = given.seeds if given.seeds is not None else (quick_seeds if given.quick else seeds)
    return Arguments(count, given.quick, given.out, keeps and given.report)


class _Held(Gang):
    """A gang that is there already."""

    def __init__(self, group: WorkerGroup) -> None:
        super().__init__("threads", group.size)
        self._held = group

    def group(self, timeout_s: float = 60.0) -> WorkerGroup:
        return self._held

    def close(self) -> None:
        self._held.close()


def gang(workers: int, cost: Cost | None = None) -> Gang:
    """Return a gang of threads on a virtual clock: a run repeats itself, whatever the machine does."""
    return _Held(LocalGroup(workers, cost or Cost()))


def training(
    trainable: type[DistributedTrainable], config: Mapping[str, Any], workers: int, seed: int, cost: Cost | None = None
) -> Iterator[dict[str, Any]]:
    """Train in threads; give each report. The caller may stop listening at any of them."""
    made = trainable(TrialContext(seed=seed, gang=gang(workers, cost)))
    made.setup(dict(config))
    try:
        while True:
            report = made.step()
            yield dict(report)
            if report[DONE]:
                return
    finally:
        made.cleanup()


class Stopwatch:
    """The CPU seconds of this process, and of its processes that have ended, since it was made."""

    def __init__(self) -> None:
        self._started = sum(os.times()[:4])

    def __str__(self) -> str:
        return f"{(sum(os.times()[:4]) - self._started) / 60:.1f} core-minutes"


def spread(function: Callable[[Job], Found], jobs: Sequence[Job], processes: int = 2) -> list[Found]:
    """Return what `function` makes of each job, in their order; done by several processes, one thread each.

    The function has to be importable: one of a module. The first error ends it. The processes are forked where that is
    possible, which saves them seconds of imports; it is safe as long as this process has not trained anything yet.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        return list(executor.map(function, jobs))


def kept(out: Path, name: str) -> dict[str, Any]:
    """Return what `save` has written. Raises SystemExit where nothing is kept."""
    path = out / f"{name}.json"
    if not path.is_file():
        raise SystemExit(f"{path}: nothing is kept there; without --report the study runs")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def save(out: Path, name: str, results: Mapping[str, Any], **figures: Any) -> None:
    """Write `name`.json and each figure as `name`.png (or `name`_`key`.png, where its key is not "figure")."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for key, figure in figures.items():
        figure.savefig(out / (f"{name}.png" if key == "figure" else f"{name}_{key}.png"), dpi=110)
