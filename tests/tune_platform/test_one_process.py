"""Several workers for a trial that trains in one process are refused by name: all but one would be idle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tune_platform import SearchSpec, uniform
from tune_platform.errors import SpecError
from tune_platform.resources import Resources
from tune_platform.trainable import Trainable
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.policy_gradient import PolicyGradientTrainable
from tune_platform.trainables.robustness import RobustnessTrainable
from tune_platform.trainables.zero_label.trainable import ZeroLabelTrainable


class Own(Trainable):
    """May use its gang's bundles for processes of its own: nobody knows."""

    def step(self) -> Mapping[str, Any]:
        return {"loss": 0.0}


def spec(kind: type[Trainable], resources: Any) -> SearchSpec:
    return SearchSpec(
        trainable=kind, param_space={"lr": uniform(0, 1)}, metric="loss", mode="min", resources=resources
    )  # fmt: skip


@pytest.mark.parametrize("kind", [PolicyGradientTrainable, RobustnessTrainable, ZeroLabelTrainable])
def test_it_is_told_before_the_start_with_the_reason(kind: type[Trainable]) -> None:
    with pytest.raises(SpecError, match=f"resources: got workers=2, but a trial of {kind.__name__} trains in one") as e:
        spec(kind, Resources(workers=2)).check()
    assert kind.one_process in str(e.value)
    spec(kind, Resources(cpu=2)).check()
    by_config = spec(kind, lambda config: Resources(workers=2 if config["lr"] > 0.5 else 1))
    assert by_config.resources_for({"lr": 0.2}).workers == 1
    with pytest.raises(SpecError, match="trains in one process"):
        by_config.resources_for({"lr": 0.8})


@pytest.mark.parametrize("kind", [ClassificationTrainable, Own])
def test_others_may_have_them(kind: type[Trainable]) -> None:
    spec(kind, Resources(workers=2)).check()
    assert spec(kind, lambda config: Resources(workers=2)).resources_for({}).workers == 2
