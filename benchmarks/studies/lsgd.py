"""LSGD against EASGD, local averaging and no communication at equal period: steps until a target is reached.

Re-tests in shape what Teng et al. (2019, section 5) report: LSGD gets there in fewer steps than EASGD. On digits, with
four workers on a quarter of the data each, and with the baseline that the paper leaves out, plain averaging. Three
parts: all methods at one learning rate; each at the best of a grid (chosen on other seeds, by the validation images);
and one worker five times slower than the others, in seconds of a virtual clock.

    python -m benchmarks.studies.lsgd [--quick] [--seeds N] [--out FOLDER] [--report]
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import matplotlib.pyplot as plt
import torch

from benchmarks.studies.common import Arguments, Stopwatch, arguments, kept, save, spread, training
from tune_platform.distributed import Cost, Strategy
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.stats import Interval, holm, mean_interval, paired_ratio
from tune_platform.trainables.stepping import SteppingWorker
from tune_platform.trainables.strategies import STRATEGIES
from tune_platform.trainables.strategies.local_sgd import LocalSGD
from tune_platform.trainables.studies.tables import markdown

WORKERS, PERIOD, BATCH = 4, 16, 16
STEPS, EVERY = 240, 8
TARGET = 0.85
RATE = 0.1
#: For the methods at their best, which are all much faster.
HIGH_TARGET = 0.93
RATES = (0.2, 0.4, 0.8)
#: With a slow worker: DOWNPOUR adds up the steps of all.
SLOW_RATES = (0.05, 0.1, 0.2, 0.4)
#: Seeds on which learning rates are chosen; the claims are made on others.
TUNING_SEEDS = (1000, 1001)
INITS = ("same", "different")
REFERENCE = "LSGD, pull 0.1"
SLOW = Cost(step_s=(1.0, 1.0, 1.0, 5.0))

METHODS: Mapping[str, Mapping[str, Any]] = {
    REFERENCE: {"name": "lsgd", "pull": 0.1},
    "LSGD, pull 0.5": {"name": "lsgd", "pull": 0.5},
    "EASGD, beta 0.43": {"name": "easgd", "beta": 0.43},
    "EASGD, beta 0.9": {"name": "easgd", "beta": 0.9},
    "local averaging": {"name": "averaging"},
    "none (mean of 4)": {"name": "lsgd", "pull": 0.0},
}
STRAGGLING: Mapping[str, Mapping[str, Any]] = {
    "LSGD, together": {"name": "lsgd", "pull": 0.1},
    "LSGD, asynchronous": {"name": "lsgd", "pull": 0.1, "asynchronous": True},
    "EASGD, together": {"name": "easgd", "beta": 0.9},
    "EASGD, asynchronous": {"name": "easgd", "beta": 0.9, "asynchronous": True},
    "DOWNPOUR, asynchronous": {"name": "downpour", "asynchronous": True},
}


Key = TypeVar("Key")


class Averaging(LocalSGD):
    """Local averaging with the choice that LSGD and EASGD have: the same initial parameters, or different ones."""

    name: ClassVar[str] = "averaging"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {**LocalSGD.DEFAULTS, "init": "same"}

    def seed_purpose(self, rank: int) -> str:
        """See `Strategy.seed_purpose`."""
        return "model" if self.options["init"] == "same" else f"model {rank}"


class Timed(SteppingWorker):
    """Also reports the virtual clock of the worker that is latest."""

    def evaluate(self) -> dict[str, Any] | None:
        """See `SteppingWorker.evaluate`."""
        clock = self.comm.all_reduce(torch.tensor([self.comm.clock()], dtype=torch.float64), "max")
        found = super().evaluate()
        return None if found is None else {**found, "clock_s": float(clock)}


class Digits(ClassificationTrainable):
    """Digits, with the strategies of this study."""

    worker_class = Timed
    strategies: ClassVar[Mapping[str, type[Strategy]]] = {**STRATEGIES, "averaging": Averaging}


class Job(NamedTuple):
    """One training. `part`: whose accuracy counts. `stop`: do not train on after the target."""

    strategy: Mapping[str, Any]
    seed: int
    lr: float = RATE
    init: str | None = None
    part: str = "test"
    target: float = TARGET
    steps: int = STEPS
    stop: bool = False
    cost: Cost | None = None


def run(job: Job) -> dict[str, Any]:
    """Train once; return step and second of the first evaluation at the target (None: never), and the curve."""
    options = {**job.strategy, "period": PERIOD, **({} if job.init is None else {"init": job.init})}
    config = {
        "task": "digits", "model": "mlp", "width": 32, "lr": job.lr, "momentum": 0.0, "weight_decay": 0.0,
        "batch_size": BATCH, "updates": job.steps, "report_every": EVERY, "strategy": options,
    }  # fmt: skip
    found: dict[str, Any] = {"curve": [], "steps": None, "seconds": None, "switches": 0.0}
    sent = []
    for report in training(Digits, config, WORKERS, job.seed, job.cost):
        accuracy = report[f"{job.part}_accuracy"]
        found["curve"].append([report["updates"], accuracy])
        sent.append(report["bytes_per_step"])
        found["switches"] = report.get("leader_switches", 0.0) / max(1, report["updates"] // PERIOD - 1)
        if found["steps"] is None and accuracy >= job.target:
            found["steps"], found["seconds"] = report["updates"], report["clock_s"]
            if job.stop:
                break
    found["bytes"] = statistics.fmean(sent)
    return found


def run_all(jobs: Mapping[Key, Job], seeds: Sequence[int]) -> dict[Key, list[dict[str, Any]]]:
    """Run each job with each seed."""
    todo = [(name, job._replace(seed=seed)) for name, job in jobs.items() for seed in seeds]
    done = spread(run, [job for _, job in todo])
    found: dict[Key, list[dict[str, Any]]] = {name: [] for name in jobs}
    for (name, _), one in zip(todo, done, strict=True):
        found[name].append(one)
    return found


def reached(runs: Sequence[Mapping[str, Any]], key: str = "steps", censored: float = STEPS) -> list[float]:
    """Return when each run was at the target; one that never was counts as if at the end."""
    return [float(each[key]) if each[key] is not None else censored for each in runs]


def compare(runs: Mapping[str, Sequence[Mapping[str, Any]]], censored: float) -> dict[str, Interval]:
    """Return each method's steps to the target over the reference's, with Holm's correction of the p-values."""
    base = reached(runs[REFERENCE], censored=censored)
    found = {name: paired_ratio(reached(each, censored=censored), base) for name, each in runs.items()}
    others = [name for name in found if name != REFERENCE]
    if len(base) > 1:
        corrected = holm([found[name].p for name in others])
        found.update({name: found[name]._replace(p=p) for name, p in zip(others, corrected, strict=True)})
    return found


def rows(runs: Mapping[str, Sequence[Mapping[str, Any]]], steps: int, extra: Mapping[str, str]) -> list[list[str]]:
    """Return the rows of a table: steps, their ratio to the reference, how many never came there, and `extra`."""
    ratios = compare(runs, steps)
    found = []
    for name, each in runs.items():
        ratio = ratios[name]
        text = "1" if name == REFERENCE else f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        never = sum(one["steps"] is None for one in each)
        p = "" if name == REFERENCE else f"{ratio.p:.2g}"
        found.append([name, f"{statistics.fmean(reached(each, censored=steps)):.0f}", text, p, str(never), extra[name]])
    return found


def by_init(found: Mapping[tuple[str, str], list[dict[str, Any]]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the runs by initialisation and method."""
    return {init: {name: found[init, name] for name in METHODS} for init in INITS}


def fixed(seeds: Sequence[int], steps: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Run all methods at one learning rate."""
    jobs = {(init, name): Job(METHODS[name], 0, init=init, steps=steps) for init in INITS for name in METHODS}
    return by_init(run_all(jobs, seeds))


def tuned(
    seeds: Sequence[int], rates: Sequence[float], steps: int
) -> tuple[dict[str, dict[str, list[dict[str, Any]]]], dict[str, dict[str, float]]]:
    """Choose a learning rate for each method, the same grid for all; run with it, up to a higher target."""
    jobs = {
        ((init, name), lr): Job(METHODS[name], 0, lr, init, "val", HIGH_TARGET, steps, stop=True)
        for init in INITS
        for name in METHODS
        for lr in rates
    }
    best = best_rates(jobs, "steps", steps)
    chosen = {init: {name: best[init, name].lr for name in METHODS} for init in INITS}
    return by_init(run_all(best, seeds)), chosen


def best_rates(jobs: Mapping[tuple[Key, float], Job], key: str, censored: float) -> dict[Key, Job]:
    """Return each method's job at the rate that came to the target first on the tuning seeds, to be run on the test."""
    tried = run_all(jobs, TUNING_SEEDS)
    means = {item: statistics.fmean(reached(runs, key, censored)) for item, runs in tried.items()}
    first: dict[Key, tuple[Key, float]] = {}
    for item in means:
        if item[0] not in first or means[item] < means[first[item[0]]]:
            first[item[0]] = item
    return {name: jobs[item]._replace(part="test") for name, item in first.items()}


def straggling(
    seeds: Sequence[int], rates: Sequence[float], steps: int
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float]]:
    """Choose a learning rate for each method where one worker is five times slower; run with it."""
    jobs = {
        (name, lr): Job(strategy, 0, lr, None, "val", HIGH_TARGET, steps, stop=True, cost=SLOW)
        for name, strategy in STRAGGLING.items()
        for lr in rates
    }
    best = best_rates(jobs, "seconds", 5.0 * steps)
    return run_all(best, seeds), {name: job.lr for name, job in best.items()}


def draw(runs: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Any:
    """Return the curves of accuracy over steps, mean over the seeds with its interval."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    colours = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
    styles = ("-", "-", "--", "--", "-.", ":")
    for axis, init in zip(axes, INITS, strict=True):
        for number, (name, each) in enumerate(runs[init].items()):
            steps = [step for step, _ in each[0]["curve"]]
            at = [mean_interval([one["curve"][i][1] for one in each]) for i in range(len(steps))]
            axis.plot(steps, [point.mean for point in at], styles[number], color=colours[number], label=name, lw=1.5)
            if len(each) > 1:
                low, high = [point.low for point in at], [point.high for point in at]
                axis.fill_between(steps, low, high, color=colours[number], alpha=0.15, lw=0)
        axis.axhline(TARGET, color="grey", lw=0.8)
        axis.set(title=f"{init} initial parameters", xlabel="inner steps of a worker", ylim=(0.4, 0.97))
    axes[0].set_ylabel("test accuracy of what is evaluated")
    axes[1].legend(fontsize=8, loc="lower right")
    axes[0].text(4, TARGET + 0.006, "target", color="grey", fontsize=8)
    figure.suptitle(f"Digits, {WORKERS} workers, exchange every {PERIOD} steps, lr {RATE}: mean and 95 % interval")
    return figure


def measured(given: Arguments) -> dict[str, Any]:
    """Run the study."""
    steps, seeds = 64 if given.quick else STEPS, range(given.seeds)
    at_one = fixed(seeds, steps)
    at_best, chosen = tuned(seeds, RATES[:2] if given.quick else RATES, steps)
    slow, slow_rates = straggling(seeds, SLOW_RATES[:2] if given.quick else SLOW_RATES, steps)
    return {
        "seeds": given.seeds, "target": TARGET, "steps": steps, "rate": RATE, "fixed": at_one, "rates": chosen,
        "tuned": at_best, "straggler": slow, "straggler_rates": slow_rates,
    }  # fmt: skip


def main() -> None:
    """Print the tables of the study, and draw its figure."""
    given, watch = arguments(__doc__, seeds=8, keeps=True), Stopwatch()
    results = kept(given.out, "lsgd") if given.report else measured(given)
    steps, at_one, chosen = results["steps"], results["fixed"], results["rates"]
    titles = ["method", "steps", f"ratio to {REFERENCE}", "p (Holm)", "never", "final accuracy, %"]
    for init, runs in at_one.items():
        final = {name: mean_interval([100 * one["curve"][-1][1] for one in each]) for name, each in runs.items()}
        extra = {name: f"{each.mean:.1f} ± {each.half:.1f}" for name, each in final.items()}
        print(f"lr {RATE}, {init} initial parameters, {results['seeds']} seeds\n")
        print(markdown(titles, rows(runs, steps, extra)), "\n")
    switches = mean_interval([one["switches"] for one in at_one["same"][REFERENCE]])
    print(f"the leader changes in a share {switches} of the exchanges")
    sent = {name: each[0]["bytes"] for name, each in at_one["same"].items()}
    print("bytes per step over all links:", {name: round(value) for name, value in sent.items()}, "\n")
    for init, runs in results["tuned"].items():
        print(f"each at its best lr, {init} initial parameters, target {HIGH_TARGET:.0%}\n")
        print(markdown([*titles[:-1], "lr"], rows(runs, steps, {k: f"{v:g}" for k, v in chosen[init].items()})), "\n")
    table = []
    for name, each in results["straggler"].items():
        came = [one["seconds"] for one in each if one["seconds"] is not None]
        text = str(mean_interval(came)) if came else "-"
        never = sum(one["steps"] is None for one in each)
        table.append([name, text, never, f"{results['straggler_rates'][name]:g}"])
    print("one worker five times slower\n")
    print(markdown(["method", f"virtual seconds to {HIGH_TARGET:.0%}", "never", "lr"], table), "\n")
    save(given.out, "lsgd", results, figure=draw(at_one))
    print(watch)


if __name__ == "__main__":
    main()
