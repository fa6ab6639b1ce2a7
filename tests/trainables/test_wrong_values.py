"""A wrong value of any setting of any trainable is one error before a step: name, what was given, what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest

from tune_platform.distributed import Gang
from tune_platform.errors import SpecError
from tune_platform.trainable import Trainable, TrialContext
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.policy_gradient import PolicyGradientTrainable, Settings
from tune_platform.trainables.policy_gradient.gang import PolicyGradientGangTrainable
from tune_platform.trainables.robustness import RobustnessTrainable
from tune_platform.trainables.robustness.gang import RobustnessGangTrainable
from tune_platform.trainables.robustness.trainable import DEFAULTS as ROBUSTNESS
from tune_platform.trainables.values import SWITCH, check_values, number, whole
from tune_platform.trainables.zero_label.gang import ZeroLabelGangTrainable
from tune_platform.trainables.zero_label.trainable import DEFAULTS as ZERO_LABEL
from tune_platform.trainables.zero_label.trainable import ZeroLabelTrainable

#: No setting of any is one of these ...
WRONG: list[Any] = ["no such word", -3, math.nan, [1, "x", None]]
#: ... but a folder may be called anything (which these data have no use for), and these numbers may be negative.
ALLOWED = {("root", 0), ("log_std", 1), ("entropy", 1)}

ROBUST = {"width": 4, "epochs": 1, "train_size": 130}
SCENES = {"train_scenes": 8, "width": 4, "base_steps": 1, "round_steps": 1, "batch_size": 2, "rounds": 1}
AGENT = {"pairs": 16, "envs": 2, "minibatches": 2, "epochs": 1, "hidden": [4], "iterations": 1}
GANG = ("workers", "strategy", "evaluation")


def cases() -> Iterable[Any]:
    kinds: list[tuple[type[Trainable], dict[str, Any], Iterable[str]]] = [
        (RobustnessTrainable, ROBUST, ROBUSTNESS),
        (ZeroLabelTrainable, SCENES, ZERO_LABEL),
        (PolicyGradientTrainable, AGENT, [*Settings().to_dict(), "variant"]),
        (RobustnessGangTrainable, ROBUST, [*GANG, "updates", "report_every", "lr", "train_size", "dropout"]),
        (ZeroLabelGangTrainable, SCENES, [*GANG, "base_lr", "schedule", "size"]),
        (PolicyGradientGangTrainable, AGENT, [*GANG, "lr", "schedule", "hidden"]),
        (ClassificationTrainable, {"task": "synthetic"}, [*GANG, "lr", "epochs", "updates", "report_every", "width"]),
    ]
    for kind, base, names in kinds:
        for name in names:
            yield pytest.param(kind, base, name, id=f"{kind.__name__}-{name}")


@pytest.mark.parametrize(("kind", "base", "name"), list(cases()))
def test_a_wrong_value_is_told_by_name_before_a_step(kind: type[Trainable], base: dict[str, Any], name: str) -> None:
    for place, value in enumerate(WRONG):
        trainable = kind(TrialContext(seed=3, resources={"cpu": 1}))
        if (name, place) in ALLOWED:
            trainable.setup({**base, name: value})
            trainable.cleanup()
            continue
        with pytest.raises(ValueError, match=name) as told:  # SpecError and DataError are ones
            trainable.setup({**base, name: value})
        message = str(told.value)
        assert repr(value) in message or str(value) in message, message


def test_the_number_of_workers_is_asked_for_before_they_start() -> None:
    for value in ("two", 0, 1.5, True):
        with pytest.raises(SpecError, match=f"workers: a whole number, 1 or more, got {value!r}"):
            ClassificationTrainable(TrialContext()).setup({"task": "synthetic", "workers": value})
    trainable = ClassificationTrainable(TrialContext(gang=Gang("threads", 1)))
    with pytest.raises(SpecError, match="workers"):
        trainable.setup({"task": "synthetic", "workers": "two"})


def test_rules() -> None:
    rules = {
        "steps": whole(1),
        "size": whole(0).or_null,
        "lr": number("above 0", lambda value: value > 0),
        "on": SWITCH,
    }
    good = {"steps": 2.0, "size": None, "lr": "3e-4", "on": False}
    check_values(good, rules)
    for name, value, told in (
        ("steps", "2", "steps is a whole number, 1 or more, got '2'"),
        ("steps", True, "steps is a whole number, 1 or more, got True"),
        ("size", -1, "size is a whole number, 0 or more, or null, got -1"),
        ("lr", math.inf, "lr is a number, above 0, got inf"),
        ("lr", 0, "lr is a number, above 0, got 0"),
        ("on", 1, "on is true or false, got 1"),
    ):
        with pytest.raises(SpecError, match=told):
            check_values({**good, name: value}, rules)
