"""Codistillation against all-reduce at equal updates, with and without the weight-decay schedule; and its bytes.

Re-tests in shape what Sodhani et al. (2020) report: two models that exchange checkpoints at 1 % of training do as well
as all-reduce with as many workers, updates and examples per worker, if regularisation weakens with the learning rate;
left as it is, they fit worse. On digits, paired by seed: the split, the order of the data and the initial parameters of
the model that is evaluated are the same for all methods.

Stated before the runs. Equivalence (two one-sided tests at 5 %): codistillation with the schedule is within 0.5 points
of all-reduce in test accuracy, and within 0.01 in test NLL. Superiority (Holm over all of them): training loss of
codistillation without the schedule above all-reduce, and above itself with it; NLL below all-reduce's on a quarter
of the data. Controls: alpha = 0, and the schedule with all-reduce.

    python -m benchmarks.studies.codistillation [--quick] [--seeds N] [--out FOLDER] [--report]
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import lru_cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.counted_bytes import resnet50_bytes_ratio
from benchmarks.studies.common import Arguments, arguments, kept, save, training
from tune_platform.distributed import DistributedTrainable, ShardedBatches
from tune_platform.trainables.stats import Interval, equivalent, holm, mean_interval, paired_difference
from tune_platform.trainables.strategies import STRATEGIES
from tune_platform.trainables.studies.tables import markdown

UPDATES, BATCH, TRAIN = 800, 32, 1297
WARMUP, DROPS, LATER = 1 / 18, (0.6, 0.85), (0.72, 0.94)
RATE, DECAY = 0.1, 1e-3
MARGINS = {"accuracy": 0.5, "nll": 0.01}
#: Shares of the training between exchanges, and how the two models exchange, for the study of stability.
PERIODS = (1, 3, 9, 18, 50)
METRICS = {
    "accuracy": "test accuracy, points", "nll": "test NLL", "train_loss": "training loss", "distance": "distance moved",
}  # fmt: skip

ALL_REDUCE = {"name": "all_reduce"}
SCHEDULE = {"weight_decay_factors": [0.1, 0.0]}
CODISTILLED = {"name": "codistillation", "period": 0.01}
INDEPENDENT = {"name": "codistillation", "alpha": 0.0}
#: The reference first; all differences are to it.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "all-reduce": {"strategy": ALL_REDUCE, "lr": 2 * RATE},
    "all-reduce, decay schedule": {"strategy": ALL_REDUCE, "lr": 2 * RATE, "decay_factors": [0.1, 0.0]},
    "independent (alpha 0)": {"strategy": INDEPENDENT},
    "codistilled, constant decay": {"strategy": CODISTILLED},
    "codistilled, decay schedule": {"strategy": {**CODISTILLED, **SCHEDULE}},
    "… and later drops": {"strategy": {**CODISTILLED, **SCHEDULE}, "drops": LATER},
    "… swapped at once": {"strategy": {**CODISTILLED, **SCHEDULE, "stagger": False}},
    "… by predictions": {"strategy": {**CODISTILLED, **SCHEDULE, "exchange": "predictions"}},
}
QUARTER: Mapping[str, Mapping[str, Any]] = {
    name: {**METHODS[name], "train": TRAIN // 4}
    for name in ("all-reduce", "independent (alpha 0)", "codistilled, decay schedule")
}
#: For the study of stability: two models that swap at the same instant, and what keeps them from ringing.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "kl_fwd, staggered (default)": {},
    "kl_fwd": {"stagger": False},
    "kl_fwd, alpha 0.3": {"stagger": False, "alpha": 0.3},
    "kl_fwd, momentum 0": {"stagger": False},
    "kl_rev": {"stagger": False, "distance": "kl_rev"},
    "mse": {"stagger": False, "distance": "mse"},
    "mse, staggered": {"distance": "mse"},
}


@lru_cache(maxsize=4)
def split(seed: int, train: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return `train` training images and their labels, and 500 test images and theirs."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    x, y = torch.tensor(images[order] / 16, dtype=torch.float32), torch.tensor(labels[order])
    return x[:train], y[:train], x[TRAIN:], y[TRAIN:]


class Digits(DistributedTrainable):
    """An MLP 64-32-10 on digits; the recipe of Goyal et al. (2017) in small."""

    strategies = STRATEGIES
    _begin_at: Tensor | None = None

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        """See `DistributedTrainable`; the first one is the worker's own."""
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        if self._begin_at is None:
            self._begin_at = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        return model

    def build_scheduler(
        self, config: Mapping[str, Any], optimizer: torch.optim.Optimizer, total: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return warm-up and drops; `decay_factors` has the weight decay follow them, whatever the strategy."""
        drops, factors = config["drops"], [1.0, *config.get("decay_factors", ())]
        steps = itertools.count()

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / (WARMUP * total))
            return rise * math.prod(0.1 for drop in drops if step >= drop * total)

        def decay(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            step = next(steps)
            optimizer.param_groups[0]["weight_decay"] = DECAY * factors[sum(step >= drop * total for drop in drops)]

        if len(factors) > 1:
            optimizer.register_step_pre_hook(decay)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> ShardedBatches:
        """See `DistributedTrainable`."""
        x, y, _, _ = split(self.context.seed, config["train"])
        return ShardedBatches((x, y), BATCH, rank, world_size, self.context.seed)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the cross-entropy."""
        return functional.cross_entropy(model(batch[0]), batch[1])

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of this study."""
        x, y, test_x, test_y = split(self.context.seed, self.config["train"])
        logits = model(test_x)
        moved = nn.utils.parameters_to_vector(model.parameters())
        assert self._begin_at is not None
        return {
            "accuracy": 100 * float((logits.argmax(1) == test_y).double().mean()),
            "nll": float(functional.cross_entropy(logits, test_y)),
            "train_loss": float(functional.cross_entropy(model(x), y)),
            "distance": float((moved - self._begin_at).norm()),
        }


def run(method: Mapping[str, Any], seed: int, updates: int) -> dict[str, Any]:
    """Train once, with two workers; return the last report."""
    config = {
        "lr": RATE, "momentum": 0.9, "weight_decay": DECAY, "train": TRAIN, "drops": DROPS, "updates": updates,
        "report_every": updates, **method,
    }  # fmt: skip
    started = time.process_time()
    (report,) = training(Digits, config, 2, seed)
    found = {name: report[name] for name in (*METRICS, "bytes_per_step")}
    return {**found, "core_seconds": time.process_time() - started}


def run_all(
    pool: Executor, methods: Mapping[str, Mapping[str, Any]], seeds: int, updates: int
) -> dict[str, list[dict[str, Any]]]:
    """Run each method with each seed, from 1 on: seed 0 was looked at when the setting was chosen."""
    under_way = {
        name: [pool.submit(run, method, seed, updates) for seed in range(1, seeds + 1)]
        for name, method in methods.items()
    }
    return {name: [future.result() for future in futures] for name, futures in under_way.items()}


Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def values(runs: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    """Return a metric of a method by seed."""
    return [float(each[metric]) for each in runs]


def differences(runs: Runs) -> dict[str, dict[str, Interval]]:
    """Return each method's paired difference to the first, by metric."""
    first, *others = runs
    return {
        name: {metric: paired_difference(values(runs[name], metric), values(runs[first], metric)) for metric in METRICS}
        for name in others
    }


def claims(full: Runs, quarter: Runs) -> list[list[str]]:
    """Return the claims that were stated beforehand, as rows: claim, estimate, p, whether it holds."""
    ours, constant, base = "codistilled, decay schedule", "codistilled, constant decay", "all-reduce"
    found = []
    for metric, margin in MARGINS.items():
        a, b = values(full[ours], metric), values(full[base], metric)
        holds, p = equivalent(a, b, margin)
        text = f"with the schedule, {METRICS[metric]} is that of all-reduce within ±{margin:g}"
        found.append([text, _interval(paired_difference(a, b)), f"{p:.2g}", "yes" if holds else "no"])
    tests = [
        ("without the schedule, training loss is above all-reduce's", full, constant, base, "train_loss", 1),
        ("the schedule lowers codistillation's training loss", full, ours, constant, "train_loss", -1),
        ("on a quarter of the data, test NLL is below all-reduce's", quarter, ours, base, "nll", -1),
    ]
    intervals = [paired_difference(values(runs[a], m), values(runs[b], m)) for _, runs, a, b, m, _ in tests]
    corrected = holm([interval.p for interval in intervals])
    for (text, _, _, _, _, sign), interval, p in zip(tests, intervals, corrected, strict=True):
        holds = p < 0.05 and interval.mean * sign > 0
        found.append([text, _interval(interval), f"{p:.2g}", "yes" if holds else "no"])
    return found


def _interval(interval: Interval) -> str:
    return f"{interval.mean:+.4f} ± {interval.half:.4f}"


def table(runs: Runs) -> str:
    """Return the means of the first method and the differences of the others, as a table."""
    first = next(iter(runs))
    means = {metric: mean_interval(values(runs[first], metric)) for metric in METRICS}
    rows = [[first, *(f"{means[metric].mean:.4f}" for metric in METRICS)]]
    for name, found in differences(runs).items():
        rows.append([name, *(_interval(found[metric]) for metric in METRICS)])
    return markdown(["method", *METRICS.values()], rows)


def stability(pool: Executor, seeds: int, updates: int) -> dict[str, list[list[float]]]:
    """Return by variant the test accuracies of each period's seeds, at a constant learning rate."""
    found = {}
    for name, options in VARIANTS.items():
        momentum = 0.0 if name.endswith("momentum 0") else 0.9
        methods = {
            str(period): {"strategy": {**CODISTILLED, **options, "period": period}, "momentum": momentum, "drops": ()}
            for period in PERIODS
        }
        found[name] = [values(each, "accuracy") for each in run_all(pool, methods, seeds, updates).values()]
    return found


# figures


def draw(runs: Runs, quarter: Runs) -> Any:
    """Return the paired differences to all-reduce with their intervals, by metric."""
    figure, axes = plt.subplots(1, 4, figsize=(10.5, 4.2), sharey=True, layout="constrained")
    shown = [(name, found, "tab:blue") for name, found in differences(runs).items()]
    shown += [(f"{name}, ¼ of data", found, "tab:orange") for name, found in differences(quarter).items()]
    for axis, (metric, label) in zip(axes, METRICS.items(), strict=True):
        if metric in MARGINS:
            axis.axvspan(-MARGINS[metric], MARGINS[metric], color="tab:green", alpha=0.15, lw=0)
        axis.axvline(0, color="grey", lw=0.8)
        for row, (_, found, colour) in enumerate(shown):
            axis.errorbar(found[metric].mean, row, xerr=found[metric].half, fmt="o", ms=4, color=colour, capsize=2)
        axis.set(xlabel=f"Δ {label}")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(shown)), [name for name, _, _ in shown], fontsize=8)
    axes[0].invert_yaxis()
    count = len(next(iter(runs.values())))
    figure.suptitle(f"Digits: difference to all-reduce, {count} paired seeds, 95 % intervals; green: margins", size=10)
    return figure


def draw_stability(found: Mapping[str, Sequence[Sequence[float]]]) -> Any:
    """Return the accuracies by period and variant."""
    figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for number, (name, each) in enumerate(found.items()):
        style = "-" if name.startswith("kl") else "--"
        means, lows = [statistics.fmean(one) for one in each], [min(one) for one in each]
        highs = [max(one) for one in each]
        axis.plot(PERIODS, means, style, marker="o", ms=4, color=f"C{number}", label=name)
        axis.fill_between(PERIODS, lows, highs, color=f"C{number}", alpha=0.12, lw=0)
    axis.set(xscale="log", xlabel="steps between exchanges", ylabel="test accuracy, %")
    axis.set_xticks(PERIODS, [str(period) for period in PERIODS])
    axis.minorticks_off()
    axis.set_title("Two models that swap checkpoints can ring: mean and range over seeds", size=10)
    axis.legend(fontsize=8, ncols=2)
    axis.grid(alpha=0.3)
    return figure


def measured(given: Arguments) -> dict[str, Any]:
    """Run the study, on two cores."""
    updates = 100 if given.quick else UPDATES
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        full = run_all(pool, METHODS, given.seeds, updates)
        quarter = run_all(pool, QUARTER, given.seeds, updates)
        rang = stability(pool, min(given.seeds, 3), updates // 2)
    return {
        "seeds": given.seeds, "updates": updates, "margins": MARGINS, "runs": full, "quarter": quarter,
        "claims": claims(full, quarter), "resnet50": resnet50_bytes_ratio(steps=100 if given.quick else None),
        "periods": PERIODS, "stability": rang,
        "core_seconds": sum(each["core_seconds"] for runs in (full, quarter) for one in runs.values() for each in one),
    }  # fmt: skip


def main() -> None:
    """Print the tables of the study, and draw its figures."""
    given: Arguments = arguments(__doc__, seeds=16, keeps=True)
    results = kept(given.out, "codistillation") if given.report else measured(given)
    full, quarter, rang = results["runs"], results["quarter"], results["stability"]
    print(f"all of the data, {results['seeds']} seeds: all-reduce, and paired differences to it\n\n{table(full)}\n")
    print(f"a quarter of the data\n\n{table(quarter)}\n")
    print(markdown(["claim, stated beforehand", "difference", "p", "holds"], claims(full, quarter)), "\n")
    sent = {name: each[0]["bytes_per_step"] for name, each in full.items()}
    print(markdown(["method", "bytes per step, both workers"], [[name, f"{b:.0f}"] for name, b in sent.items()]), "\n")
    print("ResNet-50 tensors, exchange at 1 % of 45 epochs:", results["resnet50"], "\n")
    rows = [[name, *(f"{statistics.fmean(one):.1f} ({min(one):.1f})" for one in each)] for name, each in rang.items()]
    print(markdown(["mean (lowest) accuracy by period", *map(str, results["periods"])], rows), "\n")
    save(given.out, "codistillation", results, figure=draw(full, quarter), stability=draw_stability(rang))
    print(f"{results['core_seconds'] / 60:.1f} core-minutes of training, without the study of stability")


if __name__ == "__main__":
    main()
