"""Which settings of zero-label segmentation can be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tune_platform.trainables.runtime import PRECISIONS, TEST_READ, check_step_options, generator
from tune_platform.trainables.schedules import SCHEDULES
from tune_platform.trainables.values import (
    AT_LEAST_0,
    PATH,
    POSITIVE,
    SWITCH,
    TEXT,
    Rule,
    as_number,
    check_values,
    is_whole,
    number,
    whole,
)
from tune_platform.trainables.zero_label.losses import NORMALISATIONS
from tune_platform.trainables.zero_label.splits import BACKGROUNDS, Task, check_background
from tune_platform.trainables.zero_label.views import views_of

#: What a round after the first does: nothing (the trial ends), more of round 0 (the control), self-training with the
#: identity as only view, or with the consistency filter over `views`.
METHODS = ("spnet", "longer", "self_training", "strict")
#: What each may be, where no error of its own says so.
_RULES: Mapping[str, Rule] = {
    **{name: whole(1) for name in ("base_steps", "round_steps", "batch_size", "width", "train_scenes")},
    **{name: whole(0) for name in ("rounds", "report_every", "data_seed")},
    **dict.fromkeys(("base_lr", "round_lr", "head_lr", "logit_scale"), POSITIVE),
    **dict.fromkeys(("pseudo_weight", "weight_decay"), AT_LEAST_0),
    **dict.fromkeys(("dataset", "split", "stage", "digits", "network", "views", "background"), TEXT),
    **dict.fromkeys(("frozen_norm", "diagnostics", "pictures"), SWITCH),
    **dict.fromkeys(("root", "weights"), PATH.or_null),
    "size": whole(1).or_null,
    "gamma": number("at least 0 (above 1 no seen class is ever predicted)", lambda value: value >= 0),
    "flip": number("a probability, 0 to 1", lambda value: 0 <= value <= 1),
    "class_agreement": number("a share, 0 to 1", lambda value: 0 <= value <= 1),
    "embeddings": Rule(
        "'seven_segments', 'shapes', the path of a .csv of attributes, or a list of word vector files",
        lambda value: PATH.fits(value) or (isinstance(value, (list, tuple)) and all(map(PATH.fits, value))),
    ),
}


def check_config(config: Mapping[str, Any], task: Task) -> None:
    """Raise ValueError for the first setting that cannot be: what it is, what is allowed, and what was given."""
    choices: Mapping[str, tuple[str, ...]] = {
        "method": METHODS,
        "optimizer": ("sgd", "adamw"),
        "background": BACKGROUNDS,
        "normalisation": NORMALISATIONS,
        "relabel": ("round", "crop"),
        "inverse": ("scores", "labels"),
        "class_weights": ("equal", "agreement"),
        "precision": PRECISIONS,
        "test": TEST_READ,
        "schedule": ("poly", *SCHEDULES),
    }
    check_values(config, _RULES)
    for name, allowed in choices.items():
        if config[name] not in allowed:
            raise ValueError(f"{name} is one of {', '.join(allowed)}, got {config[name]!r}")
    check_step_options(config)
    views_of(str(config["views"]), generator("cpu", 0))
    low, high = _two(config["train_scale"])
    if not 0 < as_number(low) <= as_number(high) < math.inf:
        raise ValueError(f"train_scale is two numbers 0 < low <= high, got {config['train_scale']!r}")
    crop = config["crop"]
    if crop is not None and not all(is_whole(side, 1) for side in _two(crop)):
        raise ValueError(f"crop is two whole numbers [height, width], 1 or more, or null, got {crop!r}")
    warmup = config["warmup"]
    if warmup is not None and not 0 <= as_number(warmup) < 1:
        raise ValueError(f"warmup is a share of the steps of a round, 0 to below 1, or null, got {warmup!r}")
    gamma = config["pseudo_gamma"]
    if gamma is not None and not 0 <= as_number(gamma) < math.inf:
        raise ValueError(f"pseudo_gamma is a number, at least 0, or null, got {gamma!r}")
    if config["weights"] is not None and config["network"] == "small":
        raise ValueError(
            f"weights are a file for a ResNet or a network of your own, got {config['weights']!r}: network 'small' "
            "has none"
        )
    if config["relabel"] == "crop" and (config["class_weights"] != "equal" or as_number(config["class_agreement"]) > 0):
        raise ValueError(
            "class_weights and class_agreement go by the agreement over all training images: relabel has to be 'round'"
        )
    check_background(str(config["background"]), task)


def _two(value: Any) -> tuple[Any, Any]:
    """Return the two entries of a list, or two that are no numbers."""
    return (value[0], value[1]) if isinstance(value, (list, tuple)) and len(value) == 2 else (None, None)
