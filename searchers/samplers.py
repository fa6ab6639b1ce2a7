"""Optuna's samplers by name, as the registry offers them: the searcher `tpe` is `OptunaSearcher("tpe")`."""

from functools import partial

from tune_platform.searchers.optuna import OptunaSearcher

tpe = partial(OptunaSearcher, "tpe")
gp = partial(OptunaSearcher, "gp")
cmaes = partial(OptunaSearcher, "cmaes")
nsgaii = partial(OptunaSearcher, "nsgaii")
nsgaiii = partial(OptunaSearcher, "nsgaiii")
qmc = partial(OptunaSearcher, "qmc")
