"""DiLoCo against all-reduce at equal samples, and what a sample costs in bytes.

Re-tests in shape what Douillard et al. (2023) report for language models: with hundreds of inner steps between
exchanges, and Nesterov momentum on the anchor, the loss is that of synchronous training. On digits, with four workers
on a quarter of the data each, AdamW inside, and each method at the best learning rate of a grid, chosen on other seeds
by the validation images. Beside it local SGD (the same without the outer optimizer), exchanges in eight bits, other
periods, and one worker that is left to itself.

Stated beforehand: losses are compared by their paired difference, corrected by Holm; accuracies count as equivalent
where two one-sided tests place their difference within a margin of one percentage point.

    python -m benchmarks.studies.diloco [--quick] [--seeds N] [--out FOLDER]
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.studies.common import Stopwatch, arguments, save, spread, training
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.stats import equivalent, holm, mean_interval, paired_difference
from tune_platform.trainables.studies.tables import markdown

WORKERS, BATCH, STEPS, EVERY = 4, 8, 320, 40
PERIOD, PERIODS = 20, (5, 80)
MARGIN = 0.01
RATES = (0.003, 0.01, 0.03, 0.1)
#: Seeds on which learning rates are chosen; the claims are made on others.
TUNING_SEEDS = (1000, 1001)

SYNCHRONOUS, ALONE, AVERAGED = "all-reduce", "one worker alone", "local SGD"
PAPER, MILD, SQUEEZED = "DiLoCo 0.7, 0.9", "DiLoCo 0.7, 0.5", "DiLoCo 0.7, 0.5, int8"
METHODS: Mapping[str, Mapping[str, Any]] = {
    SYNCHRONOUS: {"name": "all_reduce"},
    AVERAGED: {"name": "local_sgd"},
    PAPER: {"name": "diloco", "lr": 0.7, "momentum": 0.9},
    MILD: {"name": "diloco", "lr": 0.7, "momentum": 0.5},
    SQUEEZED: {"name": "diloco", "lr": 0.7, "momentum": 0.5, "compression": "int8"},
    ALONE: {"name": "independent"},
}
#: Methods that are also run with other periods, and the pairs whose losses are compared.
SWEPT = (AVERAGED, PAPER, MILD)
CLAIMS = ((AVERAGED, SYNCHRONOUS), (PAPER, SYNCHRONOUS), (MILD, SYNCHRONOUS), (MILD, AVERAGED), (SQUEEZED, MILD))


class Job(NamedTuple):
    """One training."""

    method: str
    seed: int
    lr: float
    period: int = PERIOD
    steps: int = STEPS


def run(job: Job) -> dict[str, Any]:
    """Train once; return the last losses and accuracies, the curve, and bytes per sample."""
    strategy = dict(METHODS[job.method])
    if strategy["name"] not in ("all_reduce", "independent"):
        strategy["period"] = job.period
    config = {
        "task": "digits", "split_seed": job.seed, "model": "mlp", "width": 32, "optimizer": "adamw", "lr": job.lr,
        "weight_decay": 0.01, "warmup": 0.05, "drops": (0.6, 0.85), "batch_size": BATCH, "updates": job.steps,
        "report_every": EVERY, "strategy": strategy,
    }  # fmt: skip
    reports = list(training(ClassificationTrainable, config, WORKERS, job.seed))
    last = reports[-1]
    return {
        "curve": [[report["updates"] * BATCH * WORKERS, report["val_loss"]] for report in reports],
        "bytes_per_sample": statistics.fmean(report["bytes_per_step"] for report in reports) / (BATCH * WORKERS),
        **{name: last[name] for name in ("val_loss", "test_loss", "test_accuracy", "train_loss")},
    }


def best_rates(steps: int, rates: Sequence[float], seeds: Sequence[int]) -> dict[str, float]:
    """Return for each method the learning rate with the least validation loss."""
    jobs = [Job(method, seed, rate, steps=steps) for method in METHODS for rate in rates for seed in seeds]
    losses: dict[tuple[str, float], list[float]] = {}
    for job, found in zip(jobs, spread(run, jobs), strict=True):
        losses.setdefault((job.method, job.lr), []).append(found["val_loss"])
    return {method: min(rates, key=lambda rate: statistics.fmean(losses[method, rate])) for method in METHODS}


def main() -> None:
    """Run the study."""
    given = arguments(__doc__, seeds=8)
    watch = Stopwatch()
    steps = 80 if given.quick else STEPS
    rates = best_rates(steps, RATES[1:2] if given.quick else RATES, TUNING_SEEDS[:1] if given.quick else TUNING_SEEDS)
    arms = [(method, PERIOD) for method in METHODS]
    arms += [(method, period) for period in PERIODS for method in SWEPT]
    jobs = [Job(m, seed, rates[m], period, steps) for m, period in arms for seed in range(given.seeds)]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {arm: [] for arm in arms}
    for job, result in zip(jobs, spread(run, jobs), strict=True):
        found[job.method, job.period].append(result)
    claims = compare(found)
    print(summary(found, rates))
    print()
    print(
        markdown(
            ["test loss of", "less that of", "paired difference", "p (Holm)", "accuracy, points", "within 1 point"],
            [
                [
                    c["of"],
                    c["than"],
                    c["difference"],
                    f"{c['p']:.3g}",
                    c["accuracy"],
                    f"{c['within']} (p {c['tost']:.2g})",
                ]
                for c in claims
            ],
        )
    )
    print(f"\n{given.seeds} paired seeds, {watch}")
    results = {
        "seeds": given.seeds,
        "rates": rates,
        "claims": claims,
        "arms": [{"method": m, "period": period, "runs": runs} for (m, period), runs in found.items()],
    }
    save(given.out, "diloco", results, figure=figure(found))


def summary(found: Mapping[tuple[str, int], list[dict[str, Any]]], rates: Mapping[str, float]) -> str:
    """Return a table of all arms."""
    rows = []
    for (method, period), runs in found.items():
        talks = METHODS[method]["name"] not in ("all_reduce", "independent")
        accuracy = mean_interval([100 * each["test_accuracy"] for each in runs])
        loss = mean_interval([each["test_loss"] for each in runs])
        sent = runs[0]["bytes_per_sample"]
        rows.append(
            [
                method, period if talks else ("1" if sent else "never"), rates[method], f"{sent:,.1f}",
                f"{loss.mean:.3f} ± {loss.half:.3f}", f"{accuracy.mean:.1f} ± {accuracy.half:.1f}",
                f"{statistics.fmean(each['train_loss'] for each in runs):.3f}",
            ]
        )  # fmt: skip
    titles = ["method", "period", "lr", "bytes per sample", "test loss", "test accuracy, %", "training loss"]
    return markdown(titles, rows)


def compare(found: Mapping[tuple[str, int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the claims at the common period."""
    claims: list[dict[str, Any]] = []
    p_values = []
    for one, other in CLAIMS:
        a, b = ([run["test_loss"] for run in found[name, PERIOD]] for name in (one, other))
        x, y = ([run["test_accuracy"] for run in found[name, PERIOD]] for name in (one, other))
        difference, points = paired_difference(a, b), paired_difference(x, y)
        within, tost = equivalent(x, y, MARGIN)
        p_values.append(difference.p)
        claims.append(
            {
                "of": one, "than": other, "difference": f"{difference.mean:+.4f} ± {difference.half:.4f}",
                "accuracy": f"{100 * points.mean:+.2f} ± {100 * points.half:.2f}",
                "within": "yes" if within else "not shown", "tost": tost,
            }
        )  # fmt: skip
    for claim, p in zip(claims, holm(p_values), strict=True):
        claim["p"] = p
    return claims


def figure(found: Mapping[tuple[str, int], list[dict[str, Any]]]) -> Figure:
    """Return the curves at the common period, and the last loss over bytes per sample for all periods."""
    drawn, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for number, method in enumerate(METHODS):
        runs = found[method, PERIOD]
        samples = [point[0] for point in runs[0]["curve"]]
        means = [statistics.fmean(run["curve"][i][1] for run in runs) for i in range(len(samples))]
        style = {SYNCHRONOUS: "--", ALONE: "--", SQUEEZED: ":"}.get(method, "-")
        left.plot(samples, means, color=f"C{number}", label=method, ls=style, lw=3 if method == SQUEEZED else 1.5)
        points = sorted(
            (runs[0]["bytes_per_sample"], period) for (name, period), runs in found.items() if name == method
        )
        if points[0][0] == 0:
            continue
        losses = [mean_interval([run["test_loss"] for run in found[method, period]]) for _, period in points]
        right.errorbar(
            [sent for sent, _ in points], [loss.mean for loss in losses],
            [0 if len(found[method, PERIOD]) == 1 else loss.half for loss in losses],
            color=f"C{number}", marker="o", capsize=3, label=method,
        )  # fmt: skip
        if method == PAPER:
            for (sent, period), loss in zip(points, losses, strict=True):
                right.annotate(
                    f"H = {period}", (sent, loss.mean), textcoords="offset points", xytext=(4, 8), fontsize=8
                )
    left.set(yscale="log", xlabel="samples seen by all workers", ylabel="validation loss (nats)")
    left.set_title(f"At equal samples, H = {PERIOD}")
    right.set(xscale="log", yscale="log", xlabel="bytes sent per sample, over all links")
    right.set(ylabel="test loss at the end (nats)", title="What a sample costs: mean and 95 % interval")
    left.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:.2g}")
        axes.yaxis.set_minor_formatter("")
    return drawn


if __name__ == "__main__":
    main()
