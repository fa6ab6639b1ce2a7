"""The generator of pseudo-labels: the student of the round before, frozen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tune_platform.trainables.runtime import autocast
from tune_platform.trainables.zero_label.calibration import calibrated
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
        classes = len(self.model.vectors)
        self._candidates = 0
        self._proposed, self._kept = torch.zeros(classes), torch.zeros(classes)

    def views(self) -> list[View]:
        """Return the views for a batch."""
        if self.config["method"] != "strict":
            return [IDENTITY]
        return list(views_of(str(self.config["views"]), self.draws))

    @torch.no_grad()
    def propose(self, images: Tensor, candidates: Tensor) -> PseudoLabels:
        """Return the pseudo-labels of `images` before and after the filter.

        With `pseudo_gamma`, a candidate that calibrated stacking among all classes takes for a seen one is none.
        """
        if self.config["pseudo_gamma"] is not None:
            with autocast(images.device, self.config["precision"]):
                scores = self.model.scores(images)
            seen = self.model.seen
            candidates = candidates & (calibrated(scores.float(), seen, float(self.config["pseudo_gamma"])) >= seen)

        def unseen_scores(x: Tensor) -> Tensor:
            with autocast(x.device, self.config["precision"]):
                scores: Tensor = self.model(x, "unseen")
            return scores

        inverse = str(self.config["inverse"])
        stride = cell_side(self.model.backbone)
        return pseudo_labels(unseen_scores, images, candidates, self.model.seen, self.views(), inverse, stride)

    def label(self, images: Tensor, candidates: Tensor) -> Tensor:
        """Return the pseudo-labels of `images`, VOID where there is none."""
        found = self.propose(images, candidates)
        self._candidates += int(candidates.sum())
        for counts, labels in ((self._proposed, found.proposed), (self._kept, found.labels)):
            counts += torch.bincount(labels[labels != VOID].cpu(), minlength=len(counts))
        return found.labels

    @property
    def agreement(self) -> Tensor:
        """Share of each class's proposed labels that the filter kept (classes; 0 where none was proposed)."""
        return self._kept / self._proposed.clamp(min=1)

    def add_up(self, together: Callable[[Tensor], Tensor]) -> None:
        """Have the counts be those that `together` makes of them: of all workers that label a share each."""
        counts = together(torch.cat([torch.tensor([float(self._candidates)]), self._proposed, self._kept]))
        self._candidates = int(counts[0])
        self._proposed, self._kept = (part.clone() for part in counts[1:].chunk(2))

    def drop_doubtful(self, labels: Tensor) -> None:
        """Take from `labels`, in place, those of classes whose agreement is below `class_agreement`."""
        doubtful = (self.agreement < float(self.config["class_agreement"])) & (self._kept > 0)
        labels[torch.isin(labels, doubtful.nonzero().flatten().to(labels))] = VOID
        self._kept[doubtful] = 0

    def class_weights(self) -> Tensor | None:
        """Return the weight of each class's pseudo-labels, on average 1 over the labels kept; None: all alike.

        The agreement of the views stands for the precision of a class's labels, which is not known.
        """
        if self.config["class_weights"] == "equal" or not self._kept.sum():
            return None
        mean = (self.agreement * self._kept).sum() / self._kept.sum()
        return self.agreement / mean

    @property
    def coverage(self) -> float:
        """Share of the candidates labelled so far that got a pseudo-label; zero if there were none."""
        return float(self._kept.sum()) / self._candidates if self._candidates else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return its weights, and what it has counted."""
        counts = {"candidates": self._candidates, "proposed": self._proposed, "kept": self._kept}
        return {"model": self.model.state_dict(), **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self._candidates, self._proposed, self._kept = state["candidates"], state["proposed"], state["kept"]
