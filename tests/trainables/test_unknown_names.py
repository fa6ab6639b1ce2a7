"""A misspelt hyperparameter is refused by every shipped trainable, before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest

from tune_platform.errors import SpecError
from tune_platform.trainable import Trainable, TrialContext
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.digits import DigitsTrainable
from tune_platform.trainables.policy_gradient import PolicyGradientTrainable
from tune_platform.trainables.policy_gradient.gang import PolicyGradientGangTrainable
from tune_platform.trainables.robustness import RobustnessTrainable
from tune_platform.trainables.robustness.gang import RobustnessGangTrainable
from tune_platform.trainables.zero_label.gang import ZeroLabelGangTrainable
from tune_platform.trainables.zero_label.trainable import ZeroLabelTrainable


@pytest.mark.parametrize(
    "kind",
    [
        ClassificationTrainable,
        DigitsTrainable,
        PolicyGradientTrainable,
        PolicyGradientGangTrainable,
        RobustnessTrainable,
        RobustnessGangTrainable,
        ZeroLabelTrainable,
        ZeroLabelGangTrainable,
    ],
)
@pytest.mark.parametrize("config", [{"weight_dekay": 0.1}, {"no_such_thing_at_all": 1}])
def test_a_name_that_there_is_not(kind: type[Trainable], config: dict[str, Any]) -> None:
    name = next(iter(config))
    with pytest.raises(SpecError, match=f"unknown hyperparameter '{name}'.*Allowed: ") as refused:
        kind(TrialContext()).setup(config)
    assert ("did you mean 'weight_decay'" in str(refused.value)) is (
        name == "weight_dekay" and kind not in (PolicyGradientTrainable, PolicyGradientGangTrainable)
    )
