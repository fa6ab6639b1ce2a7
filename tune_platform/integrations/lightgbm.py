"""LightGBM: `lightgbm.train(..., callbacks=[LightGBMCallback()], init_model=saved_model())`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_platform.extras import require
from tune_platform.integrations._saving import Reporting, saved_file

require("LightGBMCallback", "lightgbm")

_FILE = "model.txt"


class LightGBMCallback:
    """Reports every metric of every set of `valid_sets` after each round, as "valid_0-l2", with `round`.

    The trial is ended by an exception that unwinds `train`. `save_every` counts rounds (0: no checkpoint).
    """

    order, before_iteration = 20, False  # behind LightGBM's own recorders

    def __init__(self, save_every: int = 0) -> None:
        self._report = Reporting(save_every)

    def __call__(self, environment: Any) -> None:
        """Report a round."""
        metrics = {f"{entry[0]}-{entry[1]}": entry[2] for entry in environment.evaluation_result_list or ()}
        model = environment.model
        self._report({"round": environment.iteration + 1, **metrics}, lambda folder: model.save_model(folder / _FILE))


def saved_model() -> Path | None:
    """Return the model that the trial goes on from, for `init_model`; None where it begins anew."""
    return saved_file(_FILE)
