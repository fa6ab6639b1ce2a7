"""Pseudo-labels from the unseen classes alone, kept where all views agree (Pastore et al. 2021, section 3).

    ybar^k = argmax over c in U of P(c | A_k(x); W_u)          one view
    ybar   = ybar^k where A_1^-1(ybar^1) = ... = A_K^-1(ybar^K), else ignored

With the identity as the only view this is plain self-training. There is no threshold on confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tune_platform.trainables.zero_label.splits import VOID
from tune_platform.trainables.zero_label.views import Scorer, View


class PseudoLabels(NamedTuple):
    """`labels`: positions of unseen classes, VOID where dropped; `proposed`: those of the first view, unfiltered;
    `by_view`: those of each view, the first one's first.
    """

    labels: Tensor
    proposed: Tensor
    by_view: tuple[Tensor, ...]


@torch.no_grad()
def pseudo_labels(
    unseen_scores: Scorer,
    images: Tensor,
    candidates: Tensor,
    seen: int,
    views: Sequence[View],
    inverse: str = "scores",
    stride: int = 1,
) -> PseudoLabels:
    """Label the `candidates` (B x H x W, bool) of `images` (B x C x H x W) by agreement over `views`.

    `unseen_scores` must score the unseen classes only: over all classes, seen ones would claim almost every pixel. The
    labels are positions in the task, so the argmax is raised by `seen`. `inverse` is "scores", which brings each view's
    scores back before the argmax as the released code does, or "labels", which brings labels back as the paper writes.
    `stride` is the network's: the side of its cells in pixels, of which every view's sides are multiples.
    Raises ValueError for no views or another `inverse`.
    """
    if not views:
        raise ValueError("pseudo-labels take at least one view, got none")
    if inverse not in ("scores", "labels"):
        raise ValueError(f"inverse is 'scores' or 'labels', got {inverse!r}")
    size = (images.shape[-2], images.shape[-1])
    each: list[Tensor] = []
    for view in views:
        maps = unseen_scores(view.apply(images, stride)).float()
        if inverse == "scores":
            labels = view.restore(maps, size, stride).argmax(1)
        else:
            labels = view.restore_labels(maps.argmax(1), size, stride)
        each.append(torch.where(candidates, labels + seen, VOID))
    agree = torch.stack([labels == each[0] for labels in each]).all(0)
    return PseudoLabels(torch.where(agree, each[0], VOID), each[0], tuple(each))
