"""The generator of pseudo-labels: the student of the round before, frozen."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tune_platform.trainables.runtime import autocast
from tune_platform.trainables.zero_label.network import ProjectionNet, cell_side
from tune_platform.trainables.zero_label.pseudo_labels import PseudoLabels, pseudo_labels
from tune_platform.trainables.zero_label.splits import VOID
from tune_platform.trainables.zero_label.views import IDENTITY, View, views_of


class Teacher:
    """A frozen copy of `model` that labels candidates, and counts how many it has labelled.

    `draws` is used by the view set "random" alone. Plain self-training has the identity as its only view.
    """

    def __init__(self, model: ProjectionNet, config: Mapping[str, Any], draws: torch.Generator) -> None:
        self.config, self.draws = config, draws
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._candidates, self._kept = 0, 0

    def views(self) -> list[View]:
        """Return the views for a batch."""
        if self.config["method"] != "strict":
            return [IDENTITY]
        return list(views_of(str(self.config["views"]), self.draws))

    def propose(self, images: Tensor, candidates: Tensor) -> PseudoLabels:
        """Return the pseudo-labels of `images` before and after the filter."""

        def unseen_scores(x: Tensor) -> Tensor:
            with autocast(x.device, self.config["precision"]):
                scores: Tensor = self.model(x, "unseen")
            return scores

        inverse = str(self.config["inverse"])
        stride = cell_side(self.model.backbone)
        return pseudo_labels(unseen_scores, images, candidates, self.model.seen, self.views(), inverse, stride)

    def label(self, images: Tensor, candidates: Tensor) -> Tensor:
        """Return the pseudo-labels of `images`, VOID where there is none."""
        labels = self.propose(images, candidates).labels
        self._candidates += int(candidates.sum())
        self._kept += int((labels != VOID).sum())
        return labels

    @property
    def coverage(self) -> float:
        """Share of the candidates labelled so far that got a pseudo-label; zero if there were none."""
        return self._kept / self._candidates if self._candidates else 0.0
