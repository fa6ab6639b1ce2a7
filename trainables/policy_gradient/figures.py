"""Figures in the form of the paper's: gradient quality, value prediction, variance reduction, landscapes.

Each takes plain results (what `to_dict` of the reports returns) by the name of a stage, and returns a matplotlib
Figure.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tune_platform.extras import require

require("a figure", "matplotlib")

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

matplotlib.use("Agg")

DPI = 110
#: Marker and colour of each baseline, as in the legend of the paper's figure.
BASELINE_LABELS = {"true": "true value function $V^*$", "value": "agent's $V_\\theta$", "zero": "no baseline (returns)"}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG of 128 colours, small enough for a docs page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, bbox_inches="tight")
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(128).save(path, optimize=True)


def gradient_figure(stages: Mapping[str, Sequence[Mapping[str, Any]]], title: str, marker: int) -> Figure:
    """Plot P(N) and T(N) for each stage; `stages` has the rows of one agent, or of several, by name of the stage.

    Lines are means over agents, bands their range; with one agent its 95 % bootstrap interval.
    """
    figure = Figure(figsize=(9.5, 3.6))
    panels = figure.subplots(1, 2, sharey=True)
    names = (("pairwise", "mean pairwise cosine"), ("true", "mean cosine to many-sample gradient"))
    for panel, (key, label) in zip(panels, names, strict=True):
        for stage, rows in stages.items():
            sizes = sorted({row["pairs"] for row in rows})
            if all(np.isnan(row[key]) for row in rows):
                continue
            groups = [[row for row in rows if row["pairs"] == size] for size in sizes]
            means = [float(np.mean([row[key] for row in group])) for group in groups]
            if len(groups[0]) == 1:
                low, high = ([group[0][f"{key}_{end}"] for group in groups] for end in ("low", "high"))
            else:
                low = [min(row[key] for row in group) for group in groups]
                high = [max(row[key] for row in group) for group in groups]
            (line,) = panel.plot(sizes, means, "o-", markersize=4, label=stage)
            panel.fill_between(sizes, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        panel.axvline(marker, color="black", linestyle=":", linewidth=1)
        panel.annotate(f"the agent's {marker}", (marker, 0.02), xycoords=("data", "axes fraction"), fontsize=8,
                       rotation=90, ha="right")  # fmt: skip
        panel.axhline(0, color="black", linewidth=0.5)
        panel.set(ylabel=label, ylim=(-0.2, 1.02))
        _log_axis(panel, [row["pairs"] for rows in stages.values() for row in rows])
    panels[0].legend(fontsize=8)
    figure.suptitle(title)
    return figure


def _log_axis(panel: Any, sizes: Sequence[int]) -> None:
    """A logarithmic axis of pairs, with ticks where something was measured."""
    ticks = sorted(set(sizes))
    panel.set_xscale("log")
    panel.set_xticks(ticks, [f"{tick // 1000}k" if tick % 1000 == 0 else str(tick) for tick in ticks])
    panel.minorticks_off()
    panel.set_xlabel("state-action pairs per estimate")
    panel.grid(alpha=0.3)


def value_figure(stages: Mapping[str, Sequence[Mapping[str, float]]], title: str) -> Figure:
    """Plot the mean relative errors of the value network for each stage, with every repetition as a point."""
    figure = Figure(figsize=(9.5, 3.4))
    panels = figure.subplots(1, 2)
    kinds = (("held_out", "held-out pairs"), ("train", "pairs it was trained on"))
    for panel, (kind, label) in zip(panels, kinds, strict=True):
        for offset, (key, name) in enumerate(
            (("gae_mre", "against GAE targets"), ("returns_mre", "against true returns"))
        ):
            for place, rows in enumerate(stages.values()):
                values = [row[f"{key}_{kind}"] for row in rows]
                x = place + 0.3 * (offset - 0.5)
                colour = f"C{offset}"
                panel.bar(x, np.mean(values), 0.28, color=colour, alpha=0.5, label=name if place == 0 else None)
                panel.plot([x] * len(values), values, ".", color=colour, markersize=4)
        panel.set_xticks(range(len(stages)), list(stages))
        panel.set(ylabel="mean relative error", title=label)
        panel.grid(alpha=0.3, axis="y")
    panels[0].legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    return figure


def reduction_figure(stages: Mapping[str, Sequence[Mapping[str, Sequence[Mapping[str, Any]]]]], title: str) -> Figure:
    """Plot P(N) with each baseline, one panel a stage; thin lines are agents, thick ones their mean."""
    figure = Figure(figsize=(3.3 * len(stages) + 0.6, 3.4))
    panels = np.atleast_1d(figure.subplots(1, len(stages), sharey=True))
    for panel, (stage, agents) in zip(panels, stages.items(), strict=True):
        for number, (baseline, label) in enumerate(BASELINE_LABELS.items()):
            lines = [[row["pairwise"] for row in agent[baseline]] for agent in agents]
            sizes = [row["pairs"] for row in agents[0][baseline]]
            for line in lines if len(lines) > 1 else []:
                panel.plot(sizes, line, color=f"C{number}", linewidth=0.6, alpha=0.5)
            panel.plot(sizes, np.mean(lines, axis=0), "o-", color=f"C{number}", markersize=4, label=label)
        panel.axhline(0, color="black", linewidth=0.5)
        panel.set(title=stage, ylim=(-0.2, 1.02))
        _log_axis(panel, sizes)
    panels[0].set_ylabel("mean pairwise cosine")
    panels[0].legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    return figure


def surface_figure(stages: Mapping[str, Mapping[str, Any]], title: str) -> Figure:
    """Plot both surrogates and the reward over the plane, a row for each stage, as surfaces."""
    figure = Figure(figsize=(10.5, 3.3 * len(stages)))
    for row, (stage, report) in enumerate(stages.items()):
        along, aside = np.meshgrid(report["along"], report["random"], indexing="ij")
        reward = np.array(report["reward"]).mean(axis=2)
        surfaces = (
            (np.array(report["small"]), f"surrogate, {report['small_pairs']:,} pairs"),
            (np.array(report["large"]), f"surrogate, {report['large_pairs']:,} pairs"),
            (reward, f"true reward, {np.array(report['reward']).shape[2]} episodes"),
        )
        for column, (height, label) in enumerate(surfaces):
            panel: Any = figure.add_subplot(len(stages), 3, 3 * row + column + 1, projection="3d")
            panel.plot_surface(along, aside, height, cmap="viridis", edgecolor="none", alpha=0.95)
            panel.plot(report["along"], [report["random"][0]] * len(report["along"]), height[:, 0], "k-", linewidth=1.5)
            panel.set_title(f"{stage}: {label}", fontsize=8)
            panel.set_xlabel("step direction", fontsize=7)
            panel.set_ylabel("random direction", fontsize=7)
            panel.tick_params(labelsize=6)
            panel.view_init(elev=25, azim=-130)
    figure.suptitle(title, y=1 + 0.06 / len(stages))  # above the panels' own titles, which reach over their axes
    figure.subplots_adjust(wspace=0.12, hspace=0.18, left=0.02, right=0.94, top=1 - 0.14 / len(stages), bottom=0.05)
    return figure


def line_figure(stages: Mapping[str, Mapping[str, Any]], title: str) -> Figure:
    """Plot the surrogates and the true reward along the step alone, a panel for each stage."""
    figure = Figure(figsize=(3.4 * len(stages) + 0.4, 3.6))
    panels = np.atleast_1d(figure.subplots(1, len(stages)))
    for number, (panel, (stage, report)) in enumerate(zip(panels, stages.items(), strict=True)):
        reward = np.array(report["reward"])[:, 0]
        along = report["along"]
        panel.plot(along, np.array(report["small"])[:, 0], "C0.-", label=f"surrogate, {report['small_pairs']:,} pairs")
        panel.plot(along, np.array(report["large"])[:, 0], "C1.-", label=f"surrogate, {report['large_pairs']:,} pairs")
        panel.axvline(1, color="black", linestyle=":", linewidth=1)
        panel.set(xlabel="multiple of the step", title=stage)
        other = panel.twinx()
        error = reward.std(axis=1, ddof=1) / np.sqrt(reward.shape[1])
        other.errorbar(along, reward.mean(axis=1), error, color="C3", marker=".", capsize=2, label="true reward (s.e.)")
        if number == 0:
            panel.set_ylabel("surrogate")
            handles = [*panel.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
            panel.legend(handles, [*panel.get_legend_handles_labels()[1], "true reward (s.e.)"], fontsize=7)
        if number == len(stages) - 1:
            other.set_ylabel("mean episode return", color="C3")
        other.tick_params(axis="y", colors="C3")
    figure.suptitle(title)
    figure.tight_layout()
    return figure


def concentration_figure(report: Mapping[str, Any], counts: Sequence[int], title: str) -> Figure:
    """Plot the reward landscape from few to many episodes per point, as surfaces."""
    reward = np.array(report["reward"])
    along, aside = np.meshgrid(report["along"], report["random"], indexing="ij")
    figure = Figure(figsize=(3.4 * len(counts), 3.4))
    for column, count in enumerate(counts):
        panel: Any = figure.add_subplot(1, len(counts), column + 1, projection="3d")
        panel.plot_surface(along, aside, reward[:, :, :count].mean(axis=2), cmap="viridis", edgecolor="none")
        panel.set_title(f"{count} episodes a point", fontsize=9)
        panel.set_xlabel("step direction", fontsize=7)
        panel.set_ylabel("random direction", fontsize=7)
        panel.tick_params(labelsize=6)
        panel.view_init(elev=25, azim=-130)
    figure.suptitle(title)
    figure.subplots_adjust(wspace=0.12, left=0.02, right=0.94, top=0.86)
    return figure


def curve_figure(curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]], title: str) -> Figure:
    """Plot learning curves: for each name, one (env steps, return) line per seed and their mean on a common grid."""
    figure = Figure(figsize=(6.4, 3.8))
    panel = figure.subplots()
    for number, (name, lines) in enumerate(curves.items()):
        grid = np.linspace(max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines), 60)
        resampled = [np.interp(grid, x, y) for x, y in lines]
        for line in resampled:
            panel.plot(grid, line, color=f"C{number}", linewidth=0.6, alpha=0.5)
        panel.plot(
            grid, np.mean(resampled, axis=0), color=f"C{number}", linewidth=2, label=f"{name} ({len(lines)} seeds)"
        )
    panel.set(xlabel="environment steps", ylabel="return of training episodes", title=title)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure
