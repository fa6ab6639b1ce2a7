"""Which settings of zero-label segmentation can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tune_platform.trainables.runtime import PRECISIONS, TEST_READ, check_step_options, generator
from tune_platform.trainables.schedules import SCHEDULES
from tune_platform.trainables.zero_label.losses import NORMALISATIONS
from tune_platform.trainables.zero_label.splits import BACKGROUNDS, Task, check_background
from tune_platform.trainables.zero_label.views import views_of

#: What a round after the first does: nothing (the trial ends), more of round 0 (the control), self-training with the
#: identity as only view, or with the consistency filter over `views`.
METHODS = ("spnet", "longer", "self_training", "strict")
#: Whole numbers, each with the least that it may be.
_WHOLE: Mapping[str, int] = {
    "base_steps": 1,
    "round_steps": 1,
    "batch_size": 1,
    "rounds": 0,
    "report_every": 0,
    "width": 1,
    "train_scenes": 1,
}
#: Numbers: what is allowed, in words and as a test that NaN fails.
_NUMBERS: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    **{name: ("above 0", lambda value: 0 < value < math.inf) for name in ("base_lr", "round_lr", "head_lr")},
    **{name: ("at least 0", lambda value: 0 <= value < math.inf) for name in ("pseudo_weight", "weight_decay")},
    "gamma": ("at least 0 (above 1 no seen class is ever predicted)", lambda value: 0 <= value < math.inf),
    "flip": ("a probability, 0 to 1", lambda value: 0 <= value <= 1),
    "class_agreement": ("a share, 0 to 1", lambda value: 0 <= value <= 1),
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
    for name, allowed in choices.items():
        if config[name] not in allowed:
            raise ValueError(f"{name} is one of {', '.join(allowed)}, got {config[name]!r}")
    check_step_options(config)
    views_of(str(config["views"]), generator("cpu", 0))
    for name, least in _WHOLE.items():
        if not _is_whole(config[name], least):
            raise ValueError(f"{name} is a whole number, {least} or more, got {config[name]!r}")
    for name, (allowed_values, fits) in _NUMBERS.items():
        if not fits(_number(config[name])):
            raise ValueError(f"{name} is a number, {allowed_values}, got {config[name]!r}")
    low, high = _two(config["train_scale"])
    if not 0 < _number(low) <= _number(high) < math.inf:
        raise ValueError(f"train_scale is two numbers 0 < low <= high, got {config['train_scale']!r}")
    crop = config["crop"]
    if crop is not None and not all(_is_whole(side, 1) for side in _two(crop)):
        raise ValueError(f"crop is two whole numbers [height, width], 1 or more, or null, got {crop!r}")
    warmup = config["warmup"]
    if warmup is not None and not 0 <= _number(warmup) < 1:
        raise ValueError(f"warmup is a share of the steps of a round, 0 to below 1, or null, got {warmup!r}")
    gamma = config["pseudo_gamma"]
    if gamma is not None and not 0 <= _number(gamma) < math.inf:
        raise ValueError(f"pseudo_gamma is a number, at least 0, or null, got {gamma!r}")
    if config["relabel"] == "crop" and (config["class_weights"] != "equal" or _number(config["class_agreement"]) > 0):
        raise ValueError(
            "class_weights and class_agreement go by the agreement over all training images: relabel has to be 'round'"
        )
    check_background(str(config["background"]), task)


def _number(value: Any) -> float:
    """Return a number, also where YAML took it for text (3e-4); NaN for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _is_whole(value: Any, least: int) -> bool:
    return _number(value).is_integer() and _number(value) >= least


def _two(value: Any) -> tuple[Any, Any]:
    """Return the two entries of a list, or two that are no numbers."""
    return (value[0], value[1]) if isinstance(value, (list, tuple)) and len(value) == 2 else (None, None)
