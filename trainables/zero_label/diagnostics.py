"""What the pseudo-labels are worth, by the labels that the method must not see: for people, never an objective.

Nothing here changes a training: a teacher of its own labels fixed images, and its draws come from a stream of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tune_platform.trainables.runtime import generator
from tune_platform.trainables.zero_label.self_training import SelfTraining
from tune_platform.trainables.zero_label.splits import VOID
from tune_platform.trainables.zero_label.teacher import Teacher


def diagnose(training: SelfTraining, seed: int, images: int = 200, batch_size: int = 50) -> dict[str, float]:
    """Return what the present student's pseudo-labels on the first `images` training images would be worth.

    `hidden_precision`: share of the kept pseudo-labels that are right (NaN where none is kept). `hidden_coverage`:
    share of the truly unseen pixels that keep one. `hidden_dropped_precision`: share right of what the filter drops
    (NaN where it drops nothing). `hidden_zero_label_accuracy`: share of the truly unseen pixels that the first view
    labels right.
    """
    teacher = Teacher(training.model, training.config, generator("cpu", seed, "diagnostics", training.rounds_done))
    seen = training.task.seen
    kept = right = dropped = dropped_right = unseen = covered = named = 0
    for indices in torch.split(torch.arange(min(images, len(training.train))), batch_size):
        pictures, known = training.batch(indices)
        truth = training.task.positions(training.train.take(indices)[1].to(training.device))
        labels, proposed, _ = teacher.propose(pictures, known.candidates)
        keeps, drops = labels != VOID, (labels == VOID) & (proposed != VOID)
        hidden = truth >= seen
        kept += int(keeps.sum())
        right += int((keeps & (labels == truth)).sum())
        dropped += int(drops.sum())
        dropped_right += int((drops & (proposed == truth)).sum())
        unseen += int(hidden.sum())
        covered += int((keeps & hidden).sum())
        named += int((hidden & (proposed == truth)).sum())
    return {
        "hidden_precision": _share(right, kept),
        "hidden_coverage": _share(covered, unseen),
        "hidden_dropped_precision": _share(dropped_right, dropped),
        "hidden_zero_label_accuracy": _share(named, unseen),
    }


def label_counts(training: SelfTraining, seed: int, images: int = 200, batch_size: int = 50) -> dict[str, Any]:
    """Count the pseudo-labels on the first `images` training images by what is true: for each view, `proposed`, `kept`.

    Each is a table of the unseen classes: row i, column j counts pixels of class i that are labelled j; the last column
    those without a label. So what is right and what is found follow, before and after the filter, by view and class.
    """
    teacher = Teacher(training.model, training.config, generator("cpu", seed, "diagnostics", training.rounds_done))
    seen, unseen = training.task.seen, training.task.unseen
    found: dict[str, Tensor] = {}
    for indices in torch.split(torch.arange(min(images, len(training.train))), batch_size):
        pictures, known = training.batch(indices)
        truth = training.task.positions(training.train.take(indices)[1].to(training.device)) - seen
        labels = teacher.propose(pictures, known.candidates)
        named = {f"view {number}": one for number, one in enumerate(labels.by_view)}
        for name, given in {**named, "proposed": labels.proposed, "kept": labels.labels}.items():
            column = torch.where(given == VOID, unseen, given - seen)[truth >= 0]
            cells = torch.bincount(truth[truth >= 0] * (unseen + 1) + column, minlength=unseen * (unseen + 1))
            found[name] = found.get(name, torch.zeros_like(cells)) + cells
    return {name: cells.reshape(unseen, unseen + 1).tolist() for name, cells in found.items()}


def precision_and_recall(counts: Sequence[Sequence[int]]) -> list[tuple[float, float]]:
    """Return for each class the share of its labels that are right, and the share of its pixels that got it."""
    table = torch.tensor(counts, dtype=torch.double)
    right = table.diagonal()
    return list(zip((right / table[:, :-1].sum(0)).tolist(), (right / table.sum(1)).tolist(), strict=True))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
