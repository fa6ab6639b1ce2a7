"""The study's figures, from its results alone, and the picture of a search for a Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tune_platform.extras import require

require("a figure", "matplotlib")

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune_platform.trainables.data import load_images
from tune_platform.trainables.robustness.claims import Runs
from tune_platform.trainables.robustness.separation import random_labels, separation
from tune_platform.trainables.runtime import generator
from tune_platform.trainables.stats import Interval, mean_interval, paired_ratio

#: Colours of the methods (Okabe and Ito's, safe for the colour-blind), the same in every figure.
COLOURS = {
    "natural": "#555555",
    "gr": "#E69F00",
    "llr": "#CC79A7",
    "at": "#D55E00",
    "rst": "#009E73",
    "trades": "#0072B2",
}
NAMES = {"natural": "Natural", "gr": "GR", "llr": "LLR", "at": "AT", "rst": "RST", "trades": "TRADES"}
_STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left", "legend.frameon": False,
}  # fmt: skip
_DPI = 110
_TICKS = [digit * 10**power for power in range(-2, 6) for digit in (1, 2, 5)]


def draw_all(results: Mapping[str, Any], out: Path) -> None:
    """Write the figures of a study into `out`."""
    runs = Runs(results)
    with mpl.rc_context(_STYLE):
        for name, figure in (
            ("separation", separation_figure(runs)),
            ("lipschitz", lipschitz_figure(runs)),
            ("dropout", dropout_figure(runs)),
        ):
            figure.savefig(out / f"{name}.png", dpi=_DPI)


def separation_figure(runs: Runs) -> Figure:
    """Distances to the nearest image of another class, with true and with random labels, beside 2 eps."""
    base = runs.plan["base"]
    eps = float(base["eps"])
    images = load_images(base["dataset"], base.get("root"), 0)
    train, test = images.tensors("train"), images.tensors("test")
    labels = random_labels(train[1], images.classes, generator("cpu", 0, "labels"))
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    step = 1 / 16 if base["dataset"] == "digits" else 0.05
    bins = torch.arange(-step / 2, 1 + step, step).tolist()  # digits have sixteen grey levels: one bin for each
    for name, found, colour, filled in (
        ("training to training images", separation(train), "#0072B2", True),
        ("test to training images", separation(test, train), "#009E73", False),
        ("training images, labels at random", separation((train[0], labels)), "#D55E00", False),
    ):
        kind: Any = {"histtype": "stepfilled", "alpha": 0.35} if filled else {"histtype": "step", "linewidth": 1.6}
        share = torch.full_like(found.distances, 100 / len(found.distances)).tolist()
        axes.hist(found.distances.tolist(), bins=bins, weights=share, color=colour, label=name, **kind)
        axes.axvline(found.minimum, color=colour, linestyle=":", linewidth=1.2)
    axes.axvspan(0, 2 * eps, color="#999999", alpha=0.15, linewidth=0)
    axes.text(
        eps, 0.97, f"closer than 2 eps = {2 * eps:g}:\nballs would overlap", ha="center", va="top", fontsize=8,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
    axes.set(
        xlim=(0, 1),
        xlabel="L-infinity distance to the nearest image of another class (pixel values; dotted: smallest)",
        ylabel="share of images (%)",
        title=f"{base['dataset']}: how far apart are the classes?",
    )
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.78), fontsize=8)
    return figure


def lipschitz_figure(runs: Runs) -> Figure:
    """Local Lipschitz constant against adversarial and clean accuracy, each method with its intervals over seeds."""
    figure = Figure(figsize=(8.8, 4.3), layout="constrained")
    eps = float(runs.plan["base"]["eps"])
    for axes, (metric, title) in zip(
        figure.subplots(1, 3),
        (
            ("test_adv_accuracy", f"robust to PGD, eps = {eps:g} (%)"),
            ("test_mt_accuracy", "robust to MultiTargeted (%)"),
            ("test_accuracy", "clean accuracy (%)"),
        ),
        strict=True,
    ):
        for method in runs.methods("methods"):
            x = mean_interval(runs.values("methods", method, "test_lipschitz"))
            y = _percent(runs.values("methods", method, metric))
            colour, size = _look(method)
            axes.errorbar(
                x.mean, y.mean, xerr=_bars(x), yerr=_bars(y), fmt="o", color=colour, markersize=size, linewidth=0.9,
                label=method,
            )  # fmt: skip
        axes.set(xscale="log", title=title)
        axes.margins(x=0.1, y=0.05)
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in _TICKS if low <= tick <= high], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter("{x:g}")
    figure.axes[1].set_xlabel("local Lipschitz constant on test images (L1 of logits per L-infinity of pixels)")
    _legend(figure)
    return figure


def dropout_figure(runs: Runs) -> Figure:
    """What dropout changes against the same training without it, paired by seed."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    panels = (
        ("adv_gap", "adversarial gap (points)"),
        ("test_adv_accuracy", "adv. test accuracy (points)"),
        ("test_accuracy", "clean test accuracy (points)"),
        ("test_lipschitz", "test Lipschitz (ratio)"),
    )
    rates = runs.rates()
    for axes, (metric, label) in zip(figure.subplots(1, 4), panels, strict=True):
        lipschitz = metric == "test_lipschitz"
        for number, method in enumerate(runs.methods("dropout")):
            columns = [runs.values("dropout", method, metric, rate) for rate in rates]
            changes = [
                paired_ratio(column, columns[0]) if lipschitz else _percent(_minus(column, columns[0]))
                for column in columns
            ]
            colour, size = _look(method)
            middle = [change.mean for change in changes]
            bars = [
                [
                    0.0 if change.low != change.low else abs(change.mean - edge)
                    for change, edge in zip(changes, edges, strict=True)
                ]
                for edges in ([change.low for change in changes], [change.high for change in changes])
            ]
            shift = 0.012 * (number - 2)  # beside each other, or the bars would hide each other
            axes.errorbar(
                [rate + shift for rate in rates], middle, yerr=bars, color=colour, marker="o", markersize=size - 1,
                linestyle="--" if method == "TRADES 3" else "-", linewidth=1.1, label=method,
            )  # fmt: skip
        axes.axhline(1.0 if lipschitz else 0.0, color="#222222", linewidth=0.8)
        axes.set(xlabel="dropout rate", title=label, xticks=rates)
    figure.axes[0].set_ylabel("change against no dropout")
    _legend(figure)
    return figure


def _look(method: str) -> tuple[str, float]:
    """Return the colour of a method, and the size of its mark: larger with more weight on robustness."""
    name, *weight = method.split()
    return COLOURS[name.lower()], {"0.5": 3.0, "1": 4.5, "2": 7.0, "3": 5.5, "6": 7.5}.get("".join(weight), 5.5)


def _legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=7.5, columnspacing=1.2)


def _minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _percent(values: Sequence[float]) -> Interval:
    return mean_interval([100 * value for value in values])


def _bars(interval: Interval) -> list[list[float]]:
    """Half the interval for errorbar; none for a single seed."""
    half = interval.half
    return [[half if half == half else 0.0]] * 2


# ------------------------------------------------------------------------------- the Pareto front


def pareto_figure(trials: Sequence[Mapping[str, Any]], front: Sequence[int], eps: float) -> Figure:
    """Return the picture of a search for clean and adversarial accuracy.

    `trials` are dicts with `number`, `method`, `label` (its settings in words), `val` and `test`: pairs of clean and
    adversarial accuracy in [0, 1]; `front` are the numbers of those that no other beats on validation.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.2, 6.2), layout="constrained")
        axes = figure.subplots()
        chosen = sorted((trial for trial in trials if trial["number"] in set(front)), key=lambda trial: trial["val"])
        limits = _limits(chosen)
        _staircase(axes, chosen, limits)
        _points(axes, trials, {trial["number"] for trial in chosen}, limits)
        _honest(axes, chosen)
        _labels(axes, chosen)
        axes.set(
            xlim=limits[0], ylim=limits[1],
            xlabel="clean accuracy on validation images (%)",
            ylabel=f"accuracy under PGD on validation images, eps = {eps:g} (%)",
            title=f"Accurate or robust? {len(trials)} trainings, and the {len(chosen)} that no other beats in both",
        )  # fmt: skip
        axes.legend(loc="lower left", fontsize=8, title="method", title_fontsize=8, alignment="left")
    return figure


Limits = tuple[tuple[float, float], tuple[float, float]]


def _limits(chosen: Sequence[Mapping[str, Any]]) -> Limits:
    """Show the front and what is near it, with room above for words; the rest is counted."""
    clean = [100 * trial[part][0] for trial in chosen for part in ("val", "test")]
    robust = [100 * trial[part][1] for trial in chosen for part in ("val", "test")]
    spread = max(robust) - min(robust)
    low = min(clean) - 2.5
    return (low, max(clean) + 0.1 * (max(clean) - low)), (max(-2, min(robust) - 8), max(robust) + 6 + 0.35 * spread)


def _staircase(axes: Axes, chosen: Sequence[Mapping[str, Any]], limits: Limits) -> None:
    """Draw the front as the edge of what is dominated."""
    corners = [(limits[0][0], 100 * chosen[0]["val"][1])]
    for index, trial in enumerate(chosen):
        x, y = 100 * trial["val"][0], 100 * trial["val"][1]
        below = 100 * chosen[index + 1]["val"][1] if index + 1 < len(chosen) else limits[1][0]
        corners += [(x, y), (x, below)]
    xs, ys = zip(*corners, strict=True)
    axes.plot(xs, ys, color="#222222", linewidth=1.6, zorder=3)
    axes.fill_between(xs, ys, limits[1][0], color="#0072B2", alpha=0.05, linewidth=0, zorder=0)


def _points(axes: Axes, trials: Sequence[Mapping[str, Any]], chosen: set[int], limits: Limits) -> None:
    (left, _), (bottom, _) = limits
    outside = sum(100 * trial["val"][0] < left or 100 * trial["val"][1] < bottom for trial in trials)
    for method, colour in COLOURS.items():
        rows = [trial for trial in trials if trial["method"] == method]
        for best in (False, True):
            part = [trial for trial in rows if (trial["number"] in chosen) == best]
            axes.scatter(
                [100 * trial["val"][0] for trial in part], [100 * trial["val"][1] for trial in part],
                s=90 if best else 26, color=colour, alpha=1.0 if best else 0.4, linewidth=1.4 if best else 0,
                edgecolor="#222222", zorder=5 if best else 2,
            )  # fmt: skip
        if rows:
            axes.scatter([], [], s=40, color=colour, label=f"{NAMES[method]} ({len(rows)} trainings)")
    if outside:
        note = f"{outside} trainings lie outside, to the left or below"
        axes.text(0.27, 0.01, note, transform=axes.transAxes, fontsize=7.5, color="#666666")


def _honest(axes: Axes, chosen: Sequence[Mapping[str, Any]]) -> None:
    """Join each point of the front with where it lies on test images, which took no part in the choice."""
    for trial in chosen:
        (x, y), (u, v) = ((100 * a, 100 * b) for a, b in (trial["val"], trial["test"]))
        axes.plot([x, u], [y, v], color="#222222", linewidth=0.7, linestyle=":", zorder=4)
        axes.scatter([u], [v], s=28, marker="D", facecolor="white", edgecolor=COLOURS[trial["method"]], zorder=6)
    axes.scatter([], [], s=28, marker="D", facecolor="white", edgecolor="#222222", label="the same on test images")


def _share(trial: Mapping[str, Any], chosen: Sequence[Mapping[str, Any]]) -> float:
    """Return how much of the front's extent a trial has, the sum over both objectives: at the ends it is 1."""
    total = 0.0
    for axis in (0, 1):
        values = [each["val"][axis] for each in chosen]
        total += (trial["val"][axis] - min(values)) / ((max(values) - min(values)) or 1.0)
    return total


def _labels(axes: Axes, chosen: Sequence[Mapping[str, Any]]) -> None:
    """Say in the space above what the most robust and the most accurate are, and the best compromise (`_share`)."""
    marked: dict[int, list[str]] = {}
    for name, worth in (
        ("most robust", lambda trial: trial["val"][1]),
        ("best compromise", lambda trial: _share(trial, chosen)),
        ("most accurate", lambda trial: trial["val"][0]),
    ):
        marked.setdefault(max(chosen, key=worth)["number"], []).append(name)
    places = {1: (0.5,), 2: (0.2, 0.8), 3: (0.14, 0.5, 0.86)}[len(marked)]
    by_number = {trial["number"]: trial for trial in chosen}
    for place, (number, names) in zip(places, marked.items(), strict=True):
        trial = by_number[number]
        (clean, robust), (test_clean, test_robust) = trial["val"], trial["test"]
        text = [
            ", ".join(names),
            str(trial["label"]),
            f"validation {100 * clean:.1f} / {100 * robust:.1f} %",
            f"test {100 * test_clean:.1f} / {100 * test_robust:.1f} %",
        ]
        line = {
            "arrowstyle": "-",
            "color": "#222222",
            "linewidth": 0.8,
            "shrinkB": 6,
            "connectionstyle": "arc3,rad=0.1",
        }
        box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": COLOURS[trial["method"]]}
        axes.annotate(
            "\n".join(text), (100 * clean, 100 * robust), xytext=(place, 0.97), textcoords="axes fraction", fontsize=8,
            ha="center", va="top", arrowprops=line, bbox=box, zorder=7,
        )  # fmt: skip
