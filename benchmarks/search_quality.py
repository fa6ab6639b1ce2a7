"""A race of searchers and schedulers at equal workers, on tables of real learning curves and one virtual clock.

    python -m benchmarks.search_quality                 # all tables, 8 and 64 workers, 20 seeds
    python -m benchmarks.search_quality --quick --json  # 8 workers, 3 seeds, shorter; the last line is a JSON object
    uv run --with syne-tune==0.16.0 python -m benchmarks.search_quality   # with Syne Tune's

This platform's pairings run in its own simulator; the peers' own scheduler, searcher and pruner objects are driven
step by step on the same curves (`search_peers`). Each has `BUDGET` full trainings' worth of worker time. Peers that
search at random have the draws of this platform's random search. A run is ranked by when it came to the best 1 % of the
table's configs; those that did not come last, by their best value. With `--work FILE` each race is kept when it is run,
and `--minutes` ends the session: the same command goes on with what is missing.
`--chart FILE.png` draws the mean rank over time. "One training" is what the median config of the best 1 % trains until
it is there, as a share of the best peer's time: a search that had begun with it would have taken as long.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.null import simulated
from benchmarks.search_peers import Best, drive, peers
from tune_platform import Budget, SearchSpec, simulate
from tune_platform.curves.table import CurveTable
from tune_platform.simulation import Conditions, Outcome

CURVES = Path(__file__).parent / "curves"
#: Worker time of a run, in trainings of mean length to the end.
BUDGET, QUICK_BUDGET = 200, 60
DEFAULT = "default"
#: Shares of the budget at which values are compared.
MOMENTS = tuple(float(share) for share in np.geomspace(0.01, 1.0, 24))


class Run(NamedTuple):
    """One run: seconds to the best 1 % and 0.1 % of the table (None: not within the budget), and its best value.

    `values` are the best so far at `MOMENTS`, negated where more is better; infinite where there was none.
    """

    percent: float | None
    permille: float | None
    value: float
    values: Sequence[float] = ()


class Race(NamedTuple):
    """All runs of one table, number of workers and seed; `seconds` is what each had."""

    table: str
    workers: int
    seed: int
    seconds: float
    runs: dict[str, Run]


def ours(
    table: CurveTable, workers: int, seconds: float, seed: int, parts: Mapping[str, Any], target: float | None = None
) -> Outcome:
    """Run one of this platform's pairings; `parts` are the spec's searcher and scheduler, where they are named."""
    spec = SearchSpec(
        trainable=simulated, param_space=table.space.param_space, metric=table.metric, mode=table.mode,
        budget=Budget(time=seconds, target=target), seed=seed, **parts,
    )  # fmt: skip
    return simulate(spec, table, conditions=Conditions(workers=workers))[0]


def pairings(table: CurveTable, *, quick: bool) -> dict[str, dict[str, Any]]:
    """Return this platform's pairings by name; the default names no part."""
    asha = {"name": "asha", "resource": table.resource, "max": table.steps, "eta": 3}
    found: dict[str, dict[str, Any]] = {DEFAULT: {}}
    for searcher in ("random", "bohb", "mfes") if quick else ("random", "bohb", "mfes", "tpe"):
        found[f"{searcher}, asha"] = {"searcher": searcher, "scheduler": asha}
    if not quick:
        found["bohb, async_hyperband"] = {"searcher": "bohb", "scheduler": {**asha, "name": "async_hyperband"}}
        found["bohb, no stopping"] = {"searcher": "bohb", "scheduler": "fifo"}
        found["random, no stopping"] = {"searcher": "random", "scheduler": "fifo"}
    return found


def goals(table: CurveTable) -> tuple[float, float]:
    """Return the values of the best 1 % and 0.1 % of the table's configs, each by its best step; less is better."""
    sign = 1.0 if table.mode == "min" else -1.0
    finals = np.nanmin(sign * table.values[table.metric].astype(float), axis=1)
    percent, permille = (float(np.quantile(finals, share, method="higher")) for share in (0.01, 0.001))
    return percent, permille


def own_seconds(table: CurveTable) -> float:
    """Return how long the median config of the best 1 % trains until it is there: no search can make that shorter."""
    values = (1.0 if table.mode == "min" else -1.0) * table.values[table.metric].astype(float)
    there = values <= goals(table)[0]
    passed = np.nancumsum(table.seconds.astype(float), axis=1)
    return median(float(passed[row, np.argmax(there[row])]) for row in np.flatnonzero(there.any(axis=1)))


def race(table: CurveTable, workers: int, seed: int, *, quick: bool) -> Race:
    """Run all on a table. A run ends with the best 0.1 %, or in the quick form with the best 1 %."""
    seconds = float(np.nansum(table.seconds, axis=1).mean()) * (QUICK_BUDGET if quick else BUDGET) / workers
    sign = 1.0 if table.mode == "min" else -1.0
    percent, permille = goals(table)
    goal = sign * (percent if quick else permille)
    curves: dict[str, Best] = {}
    for name, parts in pairings(table, quick=quick).items():
        curves[name] = list(ours(table, workers, seconds, seed, parts, goal).best)
    for name, build in peers(quick=quick).items():
        curves[name] = drive(build(table, seed), table, workers, seconds, goal)
    found = {}
    for name, best in curves.items():
        kept = [(when, sign * value) for when, value in best if when <= seconds]
        first = [next((when for when, value in kept if value <= wanted), None) for wanted in (percent, permille)]
        values = [min((v for when, v in kept if when <= share * seconds), default=float("inf")) for share in MOMENTS]
        found[name] = Run(first[0], first[1], kept[-1][1] if kept else float("inf"), values)
    return Race(table.name, workers, seed, seconds, found)


def ranks(runs: Mapping[str, Run]) -> dict[str, float]:
    """Rank the runs of one race, 1 the best; equals share the mean of their ranks."""
    return _ranked(
        {
            name: (run.percent is None, run.percent or 0.0, run.value if run.percent is None else 0.0)
            for name, run in runs.items()
        }
    )


def _ranked(keys: Mapping[str, Any]) -> dict[str, float]:
    order = list(keys.values())
    return {
        name: 1 + sum(o < key for o in order) + (sum(o == key for o in order) - 1) / 2 for name, key in keys.items()
    }


def share(run: Run, seconds: float) -> float:
    """Return the share of the budget that it took to the best 1 %: 1 where it did not come there."""
    return 1.0 if run.percent is None else run.percent / seconds


def best_peer_seconds(races: Sequence[Race]) -> float:
    """Return the median time of the best peer to the best 1 %, in simulated seconds."""
    names = [name for name in races[0].runs if ": " in name]
    return min(median(share(each.runs[name], each.seconds) for each in races) for name in names) * races[0].seconds


def to_best_peer(races: Sequence[Race]) -> tuple[float, float, float]:
    """Return the median time of the default as a share of that of the best peer, with a 90 % interval over the seeds.

    `races` are those of one table and number of workers. The best peer is chosen anew in each of the resamples, as it
    was in the races, so that the interval has the luck of the choice in it.
    """
    names = [name for name in races[0].runs if ": " in name]  # "library: what of it"
    mine = np.array([share(each.runs[DEFAULT], each.seconds) for each in races])
    theirs = np.array([[share(each.runs[name], each.seconds) for name in names] for each in races])

    def ratio(index: np.ndarray[Any, Any]) -> float:
        return float(np.median(mine[index]) / np.median(theirs[index], axis=0).min())

    draws = np.random.default_rng(0).integers(len(races), size=(400, len(races)))
    low, high = np.quantile([ratio(index) for index in draws], (0.05, 0.95))
    return ratio(np.arange(len(races))), float(low), float(high)


def to_default(races: Sequence[Race], name: str) -> tuple[float, float, float]:
    """Return the mean time of a pairing as a share of the default's, with a 90 % interval over the seeds.

    Of each table and number of workers the mean over the seeds, of these shares the geometric mean.
    """
    groups: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for each in races:
        times = (share(each.runs[name], each.seconds), share(each.runs[DEFAULT], each.seconds))
        groups.setdefault(each[:2], []).append(times)
    generator = np.random.default_rng(0)
    times_of = [np.array(each) for each in groups.values()]

    def ratio(*, again: bool) -> float:
        logs = []
        for each in times_of:
            drawn = each[generator.integers(len(each), size=len(each))] if again else each
            mine, defaults = drawn.mean(axis=0)
            logs.append(np.log(mine / defaults))
        return float(np.exp(np.mean(logs)))

    low, high = np.quantile([ratio(again=True) for _ in range(400)], (0.05, 0.95))
    return ratio(again=False), float(low), float(high)


def kept(path: Path) -> list[Race]:
    """Read the races that are kept in a file."""
    lines = path.read_text().splitlines() if path.exists() else []
    read = (json.loads(line) for line in lines)
    return [
        Race(table, workers, seed, seconds, {name: Run(*run) for name, run in runs.items()})
        for table, workers, seed, seconds, runs in read
    ]


def report(races: Sequence[Race]) -> dict[str, Any]:
    """Print both tables; return what `--json` gives."""
    names = list(races[0].runs)
    if any(list(each.runs) != names for each in races):
        raise SystemExit(
            "the kept races are of other pairings (quick or not, with Syne Tune or not): use another --work"
        )
    ranked = {name: [ranks(each.runs)[name] for each in races] for name in names}
    print(f"{len(races)} races; times as shares of the budget, 1 if not reached\n")
    print(
        "| pairing | median rank (quartiles) | to the best 1 % | to the best 0.1 % | came to the best 1 % "
        "| mean time to the default's (90 %) |"
    )
    print("|---|---|---|---|---|---|")
    for name in sorted(names, key=lambda name: (median(ranked[name]), float(np.mean(ranked[name])))):
        low, middle, high = np.quantile(ranked[name], (0.25, 0.5, 0.75))
        first = median(share(each.runs[name], each.seconds) for each in races)
        second = median((each.runs[name].permille or each.seconds) / each.seconds for each in races)
        came = sum(each.runs[name].percent is not None for each in races)
        ratio, least, most = to_default(races, name)
        print(
            f"| {name} | {middle:g} ({low:g} to {high:g}) | {first:.2f} | {second:.2f} | {came} of {len(races)} "
            f"| {ratio:.2f} ({least:.2f} to {most:.2f}) |"
        )
    print("\n| table, workers, seeds | default to the best peer (90 %) | one training | default's rank | best other |")
    print("|---|---|---|---|---|")
    ratios = []
    for table, workers in sorted({each[:2] for each in races}):
        here = [each for each in races if each[:2] == (table, workers)]
        ratio, low, high = to_best_peer(here)
        ratios.append(ratio)
        own = {name: median(ranks(each.runs)[name] for each in here) for name in names}
        rival = min((name for name in names if name != DEFAULT), key=own.__getitem__)
        interval = f"{ratio:.2f} ({low:.2f} to {high:.2f})"
        alone = own_seconds(CurveTable.load(CURVES / f"{table}.npz")) / best_peer_seconds(here)
        place = f"{own[DEFAULT]:g} | {own[rival]:g} ({rival})"
        print(f"| {table}, {workers}, {len(here)} | {interval} | {alone:.2f} | {place} |")
    return {
        "median_rank": {name: median(each) for name, each in ranked.items()},
        "default_time_ratio_to_best_peer": round(median(ratios), 3),
    }


def draw(races: Sequence[Race], path: Path) -> None:
    """Draw the mean rank by the best value so far over time, with 90 % intervals over the races."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name in races[0].runs:
        each = np.array(
            [[_ranked({n: run.values[at] for n, run in one.runs.items()})[name] for at in range(len(MOMENTS))]
             for one in races]
        )  # fmt: skip
        mean, error = each.mean(axis=0), 1.645 * each.std(axis=0) / np.sqrt(len(each))
        (line,) = axes.plot(MOMENTS, mean, label=name, linewidth=2.5 if name == DEFAULT else 1.2)
        axes.fill_between(MOMENTS, mean - error, mean + error, color=line.get_color(), alpha=0.12)
    axes.set(xscale="log", xlabel="share of the budget", ylabel="mean rank by best value (1 the best)")
    axes.invert_yaxis()
    axes.legend(fontsize="small", loc="lower left", ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Race, print the tables, and with `--json` one object in the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--workers", type=int, nargs="*")
    parser.add_argument("--tables", nargs="*", default=sorted(path.stem for path in CURVES.glob("*.npz")))
    parser.add_argument("--work", type=Path, help="keeps each race, and goes on from there")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="when to end for this time")
    parser.add_argument("--chart", type=Path)
    options = parser.parse_args()
    seeds = options.seeds or (3 if options.quick else 20)
    workers = options.workers or ((8,) if options.quick else (8, 64))
    races = kept(options.work) if options.work else []
    done = {each[:3] for each in races}
    end = time.monotonic() + 60 * options.minutes
    loaded = [CurveTable.load(CURVES / f"{name}.npz") for name in options.tables]
    for seed, count, table in [(s, w, t) for s in range(seeds) for w in workers for t in loaded]:
        if (table.name, count, seed) in done:
            continue
        if time.monotonic() > end:
            break
        races.append(race(table, count, seed, quick=options.quick))
        if options.work:
            with options.work.open("a") as file:
                file.write(json.dumps(races[-1]) + "\n")
    races = [each for each in races if each.table in options.tables and each.workers in workers and each.seed < seeds]
    result = report(races)
    if options.chart:
        draw(races, options.chart)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
