"""Accuracy and robustness: training methods, attacks and measurements of Yang et al. (2020), as one trainable."""

from trainables.robustness.attacks import Attack, pgd, survives_multi_targeted, survives_pgd
from trainables.robustness.evaluate import Evaluation
from trainables.robustness.lipschitz import local_lipschitz
from trainables.robustness.methods import METHODS, build_method
from trainables.robustness.separation import NearestClass, Separation, random_labels, separation
from trainables.robustness.trainable import DEFAULTS, RobustnessTrainable, Training

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
