"""Zero-label segmentation as a trial: each round is a step, so a search can stop a hopeless run between rounds.

The stage "tune" is for searches: classes that are labelled play the unseen, and the objective `val_hm` is measured on
them, on validation images. The stage "final" trains for the hidden classes and reports `test_*`; it has no `val_hm`,
because nothing that it could be computed from may be looked at.

Metrics of each round: `round` (0 is SPNet), `train_loss`, `coverage` (share of the unlabelled pixels that got a
pseudo-label), `images_per_s`; `val_hm`, `val_seen_miou`, `val_unseen_miou` while tuning; `val_seen_miou` (of seen
pixels alone), `test_hm`, `test_seen_miou`, `test_unseen_miou` and `test_iou/<class>` in the final stage; with
`diagnostics` also `hidden_*`, which use hidden labels and say what the pseudo-labels of this round were worth (see
`diagnostics`): never tune on those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tune_platform.trainable import DONE, Trainable
from tune_platform.trainables.runtime import check_names, reads_test, stream_seed, use_threads
from tune_platform.trainables.zero_label.checks import check_config
from tune_platform.trainables.zero_label.datasets import Data, load_data, load_vectors
from tune_platform.trainables.zero_label.diagnostics import diagnose
from tune_platform.trainables.zero_label.metrics import iou, scores
from tune_platform.trainables.zero_label.network import (
    DeepLab,
    DeepLabPlus,
    ProjectionNet,
    own_backbone,
    small_backbone,
)
from tune_platform.trainables.zero_label.self_training import SelfTraining
from tune_platform.trainables.zero_label.splits import Task, load_split

#: Every hyperparameter and its default.
DEFAULTS: Mapping[str, Any] = {
    # What is learnt, from what.
    # "scenes", "shapes", "voc", "coco_stuff", or "module:function", called with (root, part, task, size) for the parts
    # "train", "val" and "test", and returning LabelledImages
    "dataset": "scenes",
    "root": None,  # folder of voc or coco_stuff
    "size": None,  # pixels that their images are warped to; 513 if None
    "split": "digits_248",  # a name in splits/, or the path of a .json
    "stage": "tune",  # "tune" or "final"
    "background": "void",  # what the data's background is: "void", "unlabelled" (as released), "class"
    "embeddings": "seven_segments",  # "shapes", or a .csv of attributes, or a list of word vector files
    "digits": "digits",  # the images of the scenes; "mnist"
    "train_scenes": 800,
    "data_seed": 0,
    # The network.
    "network": "small",  # or a name in NETWORKS, or "module:function", called with channels= and dims=
    "width": 32,  # channels of the small network
    "weights": None,  # file for the ResNet, or your own network: a state dict or .safetensors; what fits is logged
    "logit_scale": 5.0,
    # Its training.
    "method": "strict",  # "spnet", "longer", "self_training", "strict"
    "rounds": 3,  # after SPNet
    "base_steps": 700,
    "round_steps": 120,
    "report_every": 0,  # optimiser steps between two reports; 0: one report a round
    "base_lr": 3e-3,
    "round_lr": 1e-3,
    "schedule": "poly",  # of each round: (1 - t/T)^0.9 as in the paper; or "constant", "cosine", "step", "one_cycle"
    "warmup": None,  # share of a round's steps in which the rate rises; null: 0.05 of "poly", and as elsewhere else
    "accumulate": 1,  # parts of a batch that are computed one after the other: less memory, the same step
    "optimizer": "adamw",  # or "sgd", with momentum 0.9
    "weight_decay": 1e-4,
    "head_lr": 1.0,  # how many times as fast the last layers learn; 10 in the paper
    "batch_size": 16,
    "frozen_norm": True,  # batch normalisation keeps its statistics in the rounds
    "train_scale": [0.9, 1.6],  # range of the random scale; the views' scales should lie in it
    "crop": None,  # [height, width]; the images' size if None
    "flip": 0.0,  # probability of a mirror image: none for digits
    # Pseudo-labels.
    "views": "scale_shift",  # a name in views.VIEW_SETS, or "random"
    "inverse": "scores",  # what is brought back from a view: "scores" (as released) or "labels" (as written)
    "relabel": "round",  # label whole images once a "round", or each "crop" as it comes (the paper)
    "pseudo_gamma": None,  # calibrated stacking before the filter: no label where a seen class wins even so
    "class_agreement": 0.0,  # least share of a class's labels that the filter keeps, or the class gets none
    "class_weights": "equal",  # of the pseudo-labels by class: "equal", or by "agreement" of the views
    "pseudo_weight": 1.0,
    "normalisation": "pooled",  # of the two terms of the loss: "pooled" (as released) or "separate"
    # Judging.
    "gamma": 0.0,  # calibrated stacking: taken off the probabilities of seen classes
    "diagnostics": True,
    "pictures": False,  # after each round, what the filter keeps and drops: filter.png in the trial's folder
    "test": "always",  # in the final stage test images are read at each report, at the "last" alone, or "never"
    "precision": "float32",  # or "bfloat16", "float16"
    "max_grad_norm": 0.0,  # gradients are clipped to it; 0: not
    "compile": False,  # the network that learns, by torch.compile
    "ema": 0.0,  # decay of weights averaged within a round: they are judged, and the next round begins with them
    "deterministic": False,  # an operation that is not raises an error
}

#: The larger networks: torchvision's DeepLabV3 at output stride 8, and DeepLabv3+ at 16 with a decoder; the ResNet.
NETWORKS: Mapping[str, tuple[type[DeepLab | DeepLabPlus], int]] = {
    "deeplabv3_50": (DeepLab, 50), "deeplabv3_101": (DeepLab, 101),
    "deeplabv3plus_50": (DeepLabPlus, 50), "deeplabv3plus_101": (DeepLabPlus, 101),
}  # fmt: skip
#: What the images depend on.
DATA_KEYS = ("dataset", "root", "size", "split", "stage", "digits", "train_scenes", "data_seed")
#: Options of other trainables, and why they are not here.
ABSENT: Mapping[str, str] = {
    "channels_last": "its network always is",
    "evaluation": "it is one process: ZeroLabelGangTrainable of zero_label.gang has it",
    "lean_checkpoints": "between rounds its checkpoints are weights alone",
}


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` with the defaults filled in. Raises SpecError for a name that there is not."""
    check_names(config, DEFAULTS, ABSENT)
    return {**DEFAULTS, **config}


def build_model(config: Mapping[str, Any], task: Task, channels: int, device: str, seed: int) -> ProjectionNet:
    """Build the network of a complete `config`, its weights drawn by `seed`; torch's global generator is left alone."""
    vectors = load_vectors(config, task)
    dims = vectors.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config["network"] == "small":
            backbone: torch.nn.Module = small_backbone(channels, int(config["width"]), dims)
        elif config["network"] in NETWORKS:
            if channels != 3:
                raise ValueError(f"DeepLab takes images of 3 channels, these have {channels}: use network 'small'")
            kind, depth = NETWORKS[config["network"]]
            backbone = kind(dims, depth, config["weights"])
        elif ":" in str(config["network"]):
            backbone = own_backbone(str(config["network"]), channels, dims, config["weights"])
        else:
            raise ValueError(
                f"network is 'small', {', '.join(map(repr, NETWORKS))} or 'module:function', got {config['network']!r}"
            )
    # Channels last: a quarter faster here on a CPU, and what tensor cores want.
    backbone = backbone.to(memory_format=torch.channels_last)
    if config["compile"]:
        backbone.compile()  # in place: the names of its parameters stay
    return ProjectionNet(backbone, vectors, task.seen, float(config["logit_scale"])).to(device)


def figures(task: Task, val: Tensor, test: Tensor | None, *, final: bool) -> dict[str, float]:
    """Return what a report says of the confusion matrices: of the validation images, and of the test images if any."""
    chosen = scores(val, task.seen)
    if not final:
        return {"val_hm": chosen.harmonic, "val_seen_miou": chosen.seen, "val_unseen_miou": chosen.unseen}
    if test is None:
        return {"val_seen_miou": chosen.seen}
    told = scores(test, task.seen)
    each = {f"test_iou/{name}": float(value) for name, value in zip(task.names, iou(test), strict=True)}
    return {
        "val_seen_miou": chosen.seen,
        "test_hm": told.harmonic,
        "test_seen_miou": told.seen,
        "test_unseen_miou": told.unseen,
        **{name: value for name, value in each.items() if not math.isnan(value)},
    }


class ZeroLabelTrainable(Trainable):
    """One round of self-training a step, or `report_every` iterations of one; exact checkpoints.

    The data is kept for the worker's next trial.
    """

    one_process = (
        "a round labels and trains on one network; the trainable for a gang is "
        "tune_platform.trainables.zero_label.gang:ZeroLabelGangTrainable"
    )

    def setup(self, config: dict[str, Any]) -> None:
        """Take the threads of the lease, load the data and build the network; all that can be wrong is told here."""
        use_threads(self.context)
        self._loaded: tuple[tuple[Any, ...], Data] | None = None
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Begin a new training with `config` and the context's present seed; data that stays the same is kept."""
        self.config = config
        self.settings = whole = complete(config)
        self.task = load_split(whole["split"]).task(whole["stage"])
        check_config(whole, self.task)  # a mistake is told before anything is loaded
        key = tuple(whole[name] for name in DATA_KEYS)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = (key, load_data(whole, self.task))
        self.data = self._loaded[1]
        seed, device = self.context.seed, self.context.device
        model = build_model(whole, self.task, self.data.train.channels, device, stream_seed(seed, "weights"))
        self.training = SelfTraining(whole, self.task, self.data.train, model, stream_seed(seed, "training"))
        return True

    def step(self) -> dict[str, Any]:
        """Run one round, or `report_every` steps of it, and measure."""
        training = self.training
        begins = training.steps_done == 0
        hidden: dict[str, float] = {}
        if (
            self.settings["diagnostics"]
            and begins
            and training.rounds_done
            and self.settings["method"] in ("self_training", "strict")
        ):
            hidden = diagnose(training, self.context.seed)  # of the teacher of the round that comes
        every = int(self.settings["report_every"])
        metrics: dict[str, Any] = {"round": training.rounds_done, **training.part(every)}
        with training.averaged():
            metrics |= self.evaluate()
        metrics.update({name: value for name, value in hidden.items() if not math.isnan(value)})
        if training.steps_done:
            return {**metrics, DONE: False}
        if self.settings["pictures"]:
            from tune_platform.trainables.zero_label.pictures import draw_filter  # matplotlib takes its time to load

            draw_filter(training, self.data, self.context.directory / "filter.png", self.context.seed)
        return {**metrics, DONE: training.finished}

    def evaluate(self) -> dict[str, float]:
        """Return the scores that the stage allows: of the validation images while tuning, else of the test images."""
        gamma = float(self.settings["gamma"])
        final = self.data.test is not None
        val, test = self.training.confusion(self.data.val, gamma, hide_unseen=final), None
        if self.data.test is not None and reads_test(self.settings["test"], self.training.finished):
            test = self.training.confusion(self.data.test, gamma)
        return figures(self.task, val, test, final=final)

    def save_checkpoint(self, directory: Path) -> None:
        """Write the state of the training."""
        self.training.save(directory)

    def load_checkpoint(self, directory: Path) -> None:
        """Go on from a saved state."""
        self.training.load(directory)
