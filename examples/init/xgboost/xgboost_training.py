"""Gradient boosted trees on Friedman's regression problem: five of ten features matter."""

import numpy as np
import xgboost

from tune_platform import get_context, report


def friedman(rows, rng):
    """Draw features and targets."""
    x = rng.uniform(size=(rows, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return xgboost.DMatrix(x, y + rng.normal(size=rows))


class Report(xgboost.callback.TrainingCallback):
    """Reports the validation error after each round."""

    def after_iteration(self, model, epoch, evals_log):
        """Go on (False) unless the platform stops the trial here."""
        report({"round": epoch + 1, "rmse": evals_log["validation"]["rmse"][-1]})
        return False


def train(config):
    """Boost for `config["rounds"]` rounds; the rest of the config are XGBoost's own parameters."""
    rng = np.random.default_rng(0)  # the same data in every trial
    training, validation = friedman(2000, rng), friedman(1000, rng)
    parameters = {**config, "nthread": 1, "seed": get_context().seed % 2**31}
    rounds = parameters.pop("rounds")
    xgboost.train(
        parameters, training, rounds, evals=[(validation, "validation")], callbacks=[Report()], verbose_eval=False
    )
