"""The training itself: SPNet on the seen classes, then rounds of self-training, each from the student before it.

Round 0 trains on labelled seen pixels with a softmax over the seen classes. In round t the frozen student of round t-1
makes pseudo-labels on the unlabelled pixels, and a copy of it goes on training on the original labels and these, with a
softmax over all classes. A round is one step of a trial, or `report_every` steps of its optimiser are.

All draws of the training come from one generator, which the checkpoint holds; the diagnostics have their own.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tune_platform.trainables.runtime import autocast, deterministic
from tune_platform.trainables.stepping import Averages
from tune_platform.trainables.zero_label.augment import augment
from tune_platform.trainables.zero_label.calibration import calibrated
from tune_platform.trainables.zero_label.checks import check_config
from tune_platform.trainables.zero_label.losses import Batch, segmentation_loss, self_training_loss
from tune_platform.trainables.zero_label.metrics import confusion_matrix
from tune_platform.trainables.zero_label.network import ProjectionNet
from tune_platform.trainables.zero_label.optimizing import build_optimizer, factor, train_mode
from tune_platform.trainables.zero_label.scenes import LabelledImages
from tune_platform.trainables.zero_label.splits import VOID, Supervision, Task, supervision
from tune_platform.trainables.zero_label.teacher import Teacher

_STATE_FILE = "state.pt"
#: What the scores of a batch that is evaluated may take, in bytes; their probabilities take as much again.
SCORE_BYTES = 2**30


@dataclass(slots=True)
class _Round:
    """A round that has begun. `draws` is the generator's state before it made its labels."""

    steps: int
    optimizer: torch.optim.Optimizer
    rates: list[float]  # of the optimizer's groups, at the peak
    scaler: torch.amp.GradScaler
    teacher: Teacher | None
    stored: Tensor | None  # the labels of all images, where they are made once
    frozen: bool
    draws: Tensor
    averages: Averages
    done: int = 0


class SelfTraining:
    """One training: `round()` runs the next round, `part(steps)` some of it; `save` and `load` are exact anywhere."""

    def __init__(
        self, config: Mapping[str, Any], task: Task, train: LabelledImages, model: ProjectionNet, seed: int
    ) -> None:
        check_config(config, task)
        self.config, self.task, self.train, self.model = config, task, train, model
        self.rounds_done = 0
        self._present: _Round | None = None
        self._class_weights: Tensor | None = None  # of the pseudo-labels of the present round
        #: What makes the counts of all workers of this one's; `train` is then its share of the images.
        self.together: Callable[[Tensor], Tensor] = lambda counts: counts
        self.device = model.vectors.device
        self.draws = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on any device
        self.batch_size = min(int(config["batch_size"]), len(train))

    # ------------------------------------------------------------------ rounds

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.rounds_done > (0 if self.config["method"] == "spnet" else int(self.config["rounds"]))

    def round(self) -> dict[str, float]:
        """Run the next round, or the rest of one; return what `part` does."""
        return self.part(0)

    def part(self, steps: int) -> dict[str, float]:
        """Go on in the present round for `steps` optimiser steps at most (0: to its end), and begin it where none is.

        Returns the mean loss of these steps, images per second and, where labels were made in this round, `coverage`:
        the share of the candidate pixels that got one.
        """
        started = time.perf_counter()
        present = self._present = self._present or self._begun()
        end = min(present.done + steps, present.steps) if steps else present.steps
        count = end - present.done
        total = torch.zeros((), device=self.device)
        train_mode(self.model, present.frozen)
        with deterministic(self.config["deterministic"]):
            while present.done < end:
                total += self._step(present)
        self.model.eval()
        result = {
            "train_loss": total.item() / max(1, count),
            "images_per_s": count * self.batch_size / (time.perf_counter() - started),
        }
        if present.teacher is not None:
            result["coverage"] = present.teacher.coverage
        if present.done == present.steps:
            present.averages.stay()
            self._present = None
            self.rounds_done += 1
        return result

    def averaged(self) -> AbstractContextManager[None]:
        """Give the context in which the model holds the averages of the present round, where there are any."""
        return nullcontext() if self._present is None else self._present.averages.standing_in()

    @property
    def steps_done(self) -> int:
        """How many steps of the present round are done; 0 between two rounds."""
        return self._present.done if self._present is not None else 0

    def _begun(self) -> _Round:
        first = self.rounds_done == 0
        draws = self.draws.get_state()
        optimizer = build_optimizer(self.config, self.model, float(self.config["base_lr" if first else "round_lr"]))
        teacher, stored = self.pseudo_labelled()
        return _Round(
            steps=self.steps,
            optimizer=optimizer,
            rates=[group["lr"] for group in optimizer.param_groups],
            scaler=torch.amp.GradScaler(self.device.type, enabled=self.config["precision"] == "float16"),
            teacher=teacher,
            stored=stored,
            frozen=self.frozen,
            draws=draws,
            averages=Averages(self.model, float(self.config["ema"])),
        )

    @property
    def steps(self) -> int:
        """How many steps the present round has."""
        return int(self.config["round_steps" if self.rounds_done else "base_steps"])

    @property
    def frozen(self) -> bool:
        """Whether batch normalisation keeps its statistics in the present round.

        In round 0 they are learnt whatever `frozen_norm` says, unless the backbone came with its own.
        """
        return bool(self.config["frozen_norm"]) and (self.rounds_done > 0 or self.config["weights"] is not None)

    def pseudo_labelled(self) -> tuple[Teacher | None, Tensor | None]:
        """Return the teacher of the present round, a copy of the network as it is, and its labels of all images.

        There is none in a round of labelled pixels alone, and there are no labels where crops are labelled one by one.
        """
        self._class_weights = None
        if self.rounds_done == 0 or self.config["method"] == "longer":
            return None, None
        teacher = Teacher(self.model, self.config, self.draws)
        if self.config["relabel"] != "round":
            return teacher, None
        stored = self._labelled(teacher)
        self._class_weights = teacher.class_weights()
        return teacher, stored

    def _step(self, present: _Round) -> Tensor:
        """Take one step of the optimiser and return the loss."""
        for group, rate in zip(present.optimizer.param_groups, present.rates, strict=True):
            group["lr"] = rate * factor(self.config, present.done, present.steps)
        indices = torch.randint(len(self.train), (self.batch_size,), generator=self.draws)
        present.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        for part in self.prepared(indices, present.teacher, present.stored).parts(int(self.config["accumulate"])):
            loss = self.loss_of(self.model, part)
            present.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if self.config["max_grad_norm"]:
            present.scaler.unscale_(present.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), float(self.config["max_grad_norm"]))
        present.scaler.step(present.optimizer)
        present.scaler.update()
        present.averages.update()
        present.done += 1
        return total

    def _labelled(self, teacher: Teacher) -> Tensor:
        """Label all training images once, whole, before the round; cheaper than every crop as it comes."""
        kind = torch.int8 if len(self.task.names) < 128 else torch.int16
        stored = torch.empty((len(self.train), *self.train.size), dtype=kind)
        for indices in torch.split(torch.arange(len(stored)), self.batch_size):
            images, known = self.batch(indices)
            stored[indices] = teacher.label(images, known.candidates).to("cpu", kind)
        teacher.add_up(self.together)
        teacher.drop_doubtful(stored)
        return stored

    def loss(self, model: nn.Module, indices: Tensor, teacher: Teacher | None, stored: Tensor | None) -> Tensor:
        """Return the loss of `model`, the network or a wrapper of it, on the training images at `indices`."""
        return self.loss_of(model, self.prepared(indices, teacher, stored))

    def prepared(self, indices: Tensor, teacher: Teacher | None, stored: Tensor | None) -> Batch:
        """Return the training images at `indices`, augmented, with their labels and pseudo-labels."""
        images, known = self.batch(indices)
        if teacher is None:
            images, targets = self._augmented(images, known.targets)
            return Batch(images, targets)
        if stored is None:  # the paper's way
            images, targets, candidates = self._augmented(images, known.targets, known.candidates.long())
            pseudo = teacher.label(images, candidates == 1)
        else:
            labels = stored[indices].to(self.device, torch.long)
            images, targets, pseudo = self._augmented(images, known.targets, labels)
        # A pseudo-label takes the place of what stood there: the background, where that is a class.
        return Batch(images, torch.where(pseudo == VOID, targets, VOID), pseudo)

    def loss_of(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of `model` on a batch, or on a part of one: theirs add up to that of the whole."""
        with autocast(self.device, self.config["precision"]):
            scores = model(batch.images, "seen" if batch.pseudo is None else "all")
        batch = batch.mapped((scores.shape[-2], scores.shape[-1]))
        whole = batch.whole or batch
        if batch.pseudo is None or whole.pseudo is None:
            return segmentation_loss(scores.float(), batch.targets, whole.targets)
        weight, normalisation = float(self.config["pseudo_weight"]), str(self.config["normalisation"])
        weights = None if self._class_weights is None else self._class_weights.to(self.device)
        counted = (whole.targets, whole.pseudo)
        return self_training_loss(scores.float(), batch.targets, batch.pseudo, weight, normalisation, weights, counted)

    def batch(self, indices: Tensor) -> tuple[Tensor, Supervision]:
        """Return images (on the device) and what training may know of them."""
        images, labels = self.train.take(indices)
        positions = self.task.positions(labels.to(self.device))
        return images.to(self.device), supervision(positions, self.task, str(self.config["background"]))

    def _augmented(self, images: Tensor, *labels: Tensor) -> tuple[Tensor, ...]:
        low, high = (float(bound) for bound in self.config["train_scale"])
        crop = tuple(int(side) for side in self.config["crop"] or self.train.size)
        return augment(images, labels, (low, high), (crop[0], crop[1]), float(self.config["flip"]), self.draws)

    # ------------------------------------------------------------------ evaluation

    @torch.no_grad()
    def predictions(self, images: LabelledImages) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield scores of all classes (n x classes x H x W) and true positions (n x H x W) over `images`.

        `n` is what SCORE_BYTES allow, 100 at most.
        """
        self.model.eval()
        for indices in torch.split(torch.arange(len(images)), scored_at_once(images.size, len(self.task.names))):
            taken, labels = images.take(indices)
            with autocast(self.device, self.config["precision"]):
                scores = self.model.scores(taken.to(self.device))
            yield scores, self.task.positions(labels.to(self.device))

    def confusion(self, images: LabelledImages, gamma: float = 0.0, hide_unseen: bool = False) -> Tensor:
        """Return the confusion matrix over all `images` (classes x classes, on the CPU), calibrated by `gamma`.

        With `hide_unseen` pixels of unseen classes are not judged: what may be known while they are hidden.
        """
        classes = len(self.task.names)
        counts = torch.zeros(classes, classes, dtype=torch.long)
        for scores, truth in self.predictions(images):
            truth = torch.where(truth < self.task.seen, truth, VOID) if hide_unseen else truth
            counts += confusion_matrix(truth, calibrated(scores, self.task.seen, gamma), classes).cpu()
        return counts

    # ------------------------------------------------------------------ state

    def branch(self, config: Mapping[str, Any]) -> SelfTraining:
        """Return a training in the same state that goes on by `config`; neither touches the other.

        Raises RuntimeError within a round.
        """
        if self._present is not None:
            raise RuntimeError("a training branches between two rounds")
        other = SelfTraining(config, self.task, self.train, copy.deepcopy(self.model), seed=0)
        other.rounds_done = self.rounds_done
        other.draws.set_state(self.draws.get_state())
        return other

    def save(self, directory: Path) -> None:
        """Write all that the next step depends on; labels that were made once are not kept, but made again."""
        state = {"rounds": self.rounds_done, "model": self.model.state_dict(), "draws": self.draws.get_state()}
        if (present := self._present) is not None:
            state["round"] = {
                "done": present.done,
                "draws": present.draws,
                "kind": self.config["optimizer"],
                "optimizer": present.optimizer.state_dict(),
                "scaler": present.scaler.state_dict(),
                "averages": present.averages.state(),
                "teacher": present.teacher.state_dict() if present.teacher is not None else None,
            }
        torch.save(state, directory / _STATE_FILE)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote; hyperparameters stay this config's, which a clone may have changed."""
        state = torch.load(directory / _STATE_FILE, map_location="cpu", weights_only=True)
        self.rounds_done, self._present = state["rounds"], None
        if (within := state.get("round")) is not None:
            began = within["teacher"]["model"] if within["teacher"] is not None else state["model"]
            self.model.load_state_dict(began)  # the labels of a round are those of the network that it began with
            self.draws.set_state(within["draws"])
            present = self._present = self._begun()
            present.done = min(within["done"], present.steps)
            if within["kind"] == self.config["optimizer"]:
                own = [{k: v for k, v in group.items() if k != "params"} for group in present.optimizer.param_groups]
                present.optimizer.load_state_dict(within["optimizer"])
                for group, mine in zip(present.optimizer.param_groups, own, strict=True):
                    group.update(mine)
            present.scaler.load_state_dict(within["scaler"])
            if present.teacher is not None and within["teacher"] is not None:
                present.teacher.load_state_dict(within["teacher"])
        self.model.load_state_dict(state["model"])
        if within is not None and self._present is not None:
            self._present.averages.load(within.get("averages", []))
        self.draws.set_state(state["draws"])


def scored_at_once(size: tuple[int, int], classes: int) -> int:
    """Return how many images of `size` (H, W) are scored in one batch: 100 at most, and 1 at least."""
    return max(1, min(100, SCORE_BYTES // (4 * classes * size[0] * size[1])))
