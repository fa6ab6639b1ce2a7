"""The plots of the study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_platform.extras import require

require("a figure", "matplotlib")

import numpy as np
from matplotlib.figure import Figure

from tune_platform.trainables.stats import mean_interval
from tune_platform.trainables.zero_label.study_results import Results, gains

_STYLES = {
    "longer": ("longer (control)", "#777777", "s"),
    "self_training": ("self-training", "#d95f02", "o"),
    "strict": ("STRICT (filter)", "#1f78b4", "^"),
}
_COLOURS = ("#1b9e77", "#7570b3", "#e7298a", "#a6761d")


def _panels(results: Results, height: float) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(3.0 * len(results.splits), height), layout="constrained")
    return figure, list(figure.subplots(1, len(results.splits), sharey=True, squeeze=False)[0])


def _legend(figure: Figure, axis: Any) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7, frameon=False)


def _title(split: str) -> str:
    return "unseen " + ", ".join(split.removeprefix("digits_"))


def plot_rounds(results: Results, path: Path) -> None:
    """Draw the harmonic mean over rounds, a panel for each triple, with 95 % intervals over seeds."""
    figure, axes = _panels(results, 3.1)
    for axis, split in zip(axes, results.splits, strict=True):
        for arm, (name, colour, marker) in _STYLES.items():
            found = [mean_interval(results.over_seeds("spnet", "hm", split))]
            found += [mean_interval(results.over_seeds(arm, "hm", split, n)) for n in range(1, results.rounds + 1)]
            rounds = np.arange(len(found)) + {"longer": -0.05, "self_training": 0.0, "strict": 0.05}[arm]
            halves = [0 if np.isnan(each.half) else each.half for each in found]
            axis.errorbar(
                rounds, [each.mean for each in found], halves, label=name, color=colour, marker=marker, capsize=3
            )
        level = float(np.mean(results.over_seeds("calibrated", "hm", split)))
        axis.axhline(level, color="black", linestyle=":", linewidth=1, label="SPNet-C, gamma validated")
        axis.set_title(_title(split), fontsize=10)
        axis.set_xlabel("round (0: SPNet)")
        axis.set_xticks(range(results.rounds + 1))
        axis.grid(alpha=0.3)
    axes[0].set_ylim(bottom=0)  # once all is drawn: the panels share their scale
    axes[0].set_ylabel("harmonic mean of mIoUs, %")
    _legend(figure, axes[0])
    figure.suptitle(f"Test scenes: mean and 95 % interval over {len(results.seeds)} seeds", fontsize=10)
    figure.savefig(path, dpi=110)


def plot_labels(results: Results, path: Path) -> None:
    """Draw coverage and precision of the pseudo-labels over rounds: kept, dropped, and all that was proposed."""
    figure, axes = _panels(results, 3.1)
    lines = {
        ("strict", "hidden_precision"): ("STRICT: right among kept", "#1f78b4", "-", "^"),
        ("strict", "hidden_dropped_precision"): ("STRICT: right among dropped", "#1f78b4", ":", "v"),
        ("self_training", "hidden_precision"): ("self-training: right", "#d95f02", "-", "o"),
        ("strict", "hidden_coverage"): ("STRICT: share kept", "#999999", "--", "x"),
    }
    rounds = range(1, results.rounds + 1)
    for axis, split in zip(axes, results.splits, strict=True):
        for (arm, name), (label, colour, line, marker) in lines.items():
            means = [
                100 * float(np.mean([
                    row[name] for row in results.rows
                    if (row["split"], row["arm"], row["round"]) == (split, arm, number) and name in row
                ] or [np.nan]))
                for number in rounds
            ]  # fmt: skip
            axis.plot(rounds, means, label=label, color=colour, linestyle=line, marker=marker)
        unseen = len(split.removeprefix("digits_"))
        axis.axhline(100 / unseen, color="black", linewidth=0.8, alpha=0.5)
        axis.set_title(_title(split), fontsize=10)
        axis.set_xlabel("round that learns from the labels")
        axis.set_xticks(list(rounds))
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("% of pixels (line: chance)")
    _legend(figure, axes[0])
    figure.suptitle("Pseudo-labels on unseen pixels, judged by the hidden labels (means over seeds)", fontsize=10)
    figure.savefig(path, dpi=110)


def plot_gain(results: Results, path: Path) -> None:
    """Draw what the filter gains over plain self-training against what it began from, a point for each cell."""
    cells = gains(results)
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    labels = {
        "p0": "unseen pixels that SPNet names right, %",
        "last_lift": "last round: precision kept - proposed, points",
    }
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        for split, colour in zip(results.splits, _COLOURS, strict=False):
            points = [(100 * cell[name], cell["gain"]) for cell in cells if cell["split"] == split]
            axis.scatter(*zip(*points, strict=True), color=colour, label=_title(split), s=26)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].axvline(100 / 3, color="black", linestyle=":", linewidth=0.8)
    axes[0].set_ylabel("HM of STRICT - self-training, points")
    axes[0].legend(fontsize=7)
    figure.suptitle("When does the consistency filter help? One point: one triple and seed", fontsize=10)
    figure.savefig(path, dpi=110)
