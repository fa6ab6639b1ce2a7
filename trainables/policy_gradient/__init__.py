"""Deep policy gradients as trainables, and their fine-grained analysis, after Ilyas et al. (ICLR 2020).

`PolicyGradientTrainable` trains (PPO and TRPO, every code-level optimisation a switch); `python -m
tune_platform.trainables.policy_gradient.analyse` looks at any of its checkpoints: the quality of gradient estimates,
value prediction and variance reduction, and optimisation landscapes. `docs/policy_gradient.md` says what the paper
found and what holds here.
"""

from tune_platform.extras import require

require("what trains by policy gradients", "gymnasium")

from tune_platform.trainables.policy_gradient.settings import Settings, paper_settings
from tune_platform.trainables.policy_gradient.trainable import PolicyGradientTrainable

__all__ = ["PolicyGradientTrainable", "Settings", "paper_settings"]
