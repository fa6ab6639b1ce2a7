"""Pictures for people: image, truth, prediction, and what the consistency filter keeps and drops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_platform.extras import require

require("a picture", "matplotlib")

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from tune_platform.trainables.runtime import generator
from tune_platform.trainables.zero_label.datasets import Data
from tune_platform.trainables.zero_label.self_training import SelfTraining
from tune_platform.trainables.zero_label.splits import VOID
from tune_platform.trainables.zero_label.teacher import Teacher

_TITLES = (
    "image",
    "truth",
    "prediction",
    "proposed\n(one view)",
    "kept\n(all views agree)",
    "kept / dropped:\nright or wrong",
)
_VERDICTS = ("kept, right", "kept, wrong", "dropped, wrong", "dropped, right")
_VERDICT_COLOURS = ("#1b7837", "#d73027", "#9ecae1", "#fdae61")


def draw_filter(training: SelfTraining, data: Data, path: Path, seed: int, scenes: int = 5) -> None:
    """Draw the first training images that hold unseen classes, one a row, as the present student sees them.

    It looks at hidden labels, for people only, and leaves the training as it was.
    """
    task = training.task
    teacher = Teacher(training.model, training.config, generator("cpu", seed, "pictures"))
    indices = torch.arange(min(100, len(data.train)))
    raw, labels = data.train.take(indices)
    truth = task.positions(labels)
    chosen = indices[(truth >= task.seen).flatten(1).any(1)][:scenes]
    images, known = training.batch(chosen)
    truth = truth[chosen]
    training.model.eval()
    with torch.no_grad():
        predicted = training.model.scores(images).argmax(1).cpu()
    found = teacher.propose(images, known.candidates)
    kept, proposed = found.labels.cpu(), found.proposed.cpu()
    predicted = torch.where(truth >= 0, predicted, VOID)  # the background is judged by nobody
    verdict = _verdict(truth, proposed, kept)

    columns, rows = len(_TITLES), len(chosen)
    figure = Figure(figsize=(1.35 * columns, 1.32 * rows + 1.1), layout="constrained")
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    colours = _class_colours(len(task.names), task.seen)
    for row in range(rows):
        pixels = raw[chosen[row]]
        axes[row][0].imshow(pixels.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray_r", vmin=0, vmax=1)
        for column, maps in enumerate((truth, predicted, proposed, kept), start=1):
            axes[row][column].imshow((maps[row].clamp(min=-1) + 1).numpy(), cmap=colours, vmin=0, vmax=len(task.names))
        verdicts = ListedColormap(["#f5f5f5", *_VERDICT_COLOURS])
        axes[row][5].imshow((verdict[row] + 1).numpy(), cmap=verdicts, vmin=0, vmax=4)
    for axis, title in zip(axes[0], _TITLES, strict=True):
        axis.set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    handles = [
        Patch(color=colours(i + 1), label=f"{name}{'' if i < task.seen else ' (unseen)'}")
        for i, name in enumerate(task.names)
    ]
    handles += [Patch(color=colour, label=name) for colour, name in zip(_VERDICT_COLOURS, _VERDICTS, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=7, fontsize=7, frameon=False)
    figure.suptitle(f"Unseen {', '.join(task.names[task.seen :])}: after round {training.rounds_done - 1}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _verdict(truth: Tensor, proposed: Tensor, kept: Tensor) -> Tensor:
    """Return 0 ... 3 in the order of `_VERDICTS` where there was a proposal, -1 elsewhere."""
    right, keeps = proposed == truth, kept != VOID
    verdict = torch.where(keeps, torch.where(right, 0, 1), torch.where(right, 3, 2))
    return torch.where(proposed == VOID, -1, verdict)


def _class_colours(classes: int, seen: int) -> ListedColormap:
    """Return white for no class, greys for seen classes and distinct colours for unseen ones."""
    greys = [str(0.35 + 0.5 * i / max(1, seen - 1)) for i in range(seen)]
    bright = ["#e7298a", "#1f78b4", "#e6ab02", "#66a61e", "#7570b3"]
    return ListedColormap(["white", *greys, *(bright[i % len(bright)] for i in range(classes - seen))])
