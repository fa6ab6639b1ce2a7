"""XGBoost: `xgboost.train(..., callbacks=[XGBoostCallback()], xgb_model=saved_model())`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_platform.extras import require
from tune_platform.integrations._saving import Reporting, saved_file

require("XGBoostCallback", "xgboost")

from xgboost.callback import TrainingCallback  # noqa: E402  (`require` says first what to install)

_FILE = "model.ubj"


class XGBoostCallback(TrainingCallback):  # type: ignore[misc]
    """Reports every metric of every set of `evals` after each round, as "validation-rmse", with `round`.

    The trial is ended by an exception that unwinds `train`. `save_every` counts rounds (0: no checkpoint).
    """

    def __init__(self, save_every: int = 0) -> None:
        super().__init__()
        self._report = Reporting(save_every)

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Report a round."""
        metrics = {f"{data}-{name}": values[-1] for data, of in evals_log.items() for name, values in of.items()}
        # A mean of several folds comes with its deviation.
        plain = {name: value[0] if isinstance(value, tuple) else value for name, value in metrics.items()}
        self._report({"round": model.num_boosted_rounds(), **plain}, lambda folder: model.save_model(folder / _FILE))
        return False


def saved_model() -> Path | None:
    """Return the model that the trial goes on from, for `xgb_model`; None where it begins anew."""
    return saved_file(_FILE)
