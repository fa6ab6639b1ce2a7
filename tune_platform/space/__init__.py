"""The search space: domains, nested and conditional parameters, constraints, define-by-run, Ray Tune's own.

    space = Space({"lr": loguniform(1e-5, 1e-1), "optimizer": choice(["adam", "sgd"]),
                   "momentum": when(uniform(0, 0.99), {"optimizer": "sgd"})})
    config = space.sample(np.random.default_rng(0))

What does not belong here: how to choose (searchers), and anything about trials.
"""

from tune_platform.space.constraints import Constraint
from tune_platform.space.core import Parameter, ParamSpace, Rule, Space
from tune_platform.space.define_by_run import SpaceTrial, flatten_names
from tune_platform.space.domains import Categorical, Constant, Domain, Float, Function, Grid, Int, Normal
from tune_platform.space.enumeration import Enumeration
from tune_platform.space.functions import (
    choice,
    constant,
    grid_search,
    lograndint,
    loguniform,
    normal,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
)
from tune_platform.space.tree import When, when

__all__ = [
    "Categorical",
    "Constant",
    "Constraint",
    "Domain",
    "Enumeration",
    "Float",
    "Function",
    "Grid",
    "Int",
    "Normal",
    "ParamSpace",
    "Parameter",
    "Rule",
    "Space",
    "SpaceTrial",
    "When",
    "choice",
    "constant",
    "flatten_names",
    "grid_search",
    "lograndint",
    "loguniform",
    "normal",
    "qlograndint",
    "qloguniform",
    "qrandint",
    "qrandn",
    "quniform",
    "randint",
    "randn",
    "sample_from",
    "uniform",
    "when",
]
