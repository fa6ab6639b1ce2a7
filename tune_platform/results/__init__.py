"""`Results`: what an experiment found, read from the store alone.

    results = run(spec)
    results.best().config
    results.dataframe()

Works on an experiment that is finished, still running, or whose driver was killed; every call reads what
the store holds at that moment. What does not belong here: anything that changes an experiment.
"""

from tune_platform.results.checkpoints import Checkpoint
from tune_platform.results.configs import ConfigResult
from tune_platform.results.core import STATUSES, NoResultError, Results
from tune_platform.results.history import Reason
from tune_platform.results.places import locate
from tune_platform.results.spent import Spent
from tune_platform.results.tables import flatten
from tune_platform.results.trials import TrialResult

__all__ = [
    "STATUSES",
    "Checkpoint",
    "ConfigResult",
    "NoResultError",
    "Reason",
    "Results",
    "Spent",
    "TrialResult",
    "flatten",
    "locate",
]
