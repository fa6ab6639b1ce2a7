"""Accuracy and robustness: training methods, attacks and measurements of Yang et al. (2020), as one trainable."""

from tune_platform.trainables.robustness.attacks import Attack, pgd, survives_multi_targeted, survives_pgd
from tune_platform.trainables.robustness.evaluate import Evaluation
from tune_platform.trainables.robustness.lipschitz import local_lipschitz
from tune_platform.trainables.robustness.methods import METHODS, build_method
from tune_platform.trainables.robustness.separation import NearestClass, Separation, random_labels, separation
from tune_platform.trainables.robustness.trainable import DEFAULTS, RobustnessTrainable, Training

__all__ = [
    "DEFAULTS",
    "METHODS",
    "Attack",
    "Evaluation",
    "NearestClass",
    "RobustnessTrainable",
    "Separation",
    "Training",
    "build_method",
    "local_lipschitz",
    "pgd",
    "random_labels",
    "separation",
    "survives_multi_targeted",
    "survives_pgd",
]
