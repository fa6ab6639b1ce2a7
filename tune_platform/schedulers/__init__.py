"""Schedulers say who goes on. `make_scheduler` finds one by name."""

from tune_platform.protocol.scheduler import Candidates, Scheduler, TrialView
from tune_platform.registry import make_scheduler
from tune_platform.schedulers.asha import ASHA
from tune_platform.schedulers.async_hyperband import AsyncHyperBand
from tune_platform.schedulers.fifo import FIFO
from tune_platform.schedulers.freeze_thaw import FreezeThaw
from tune_platform.schedulers.hyperband import HyperBand
from tune_platform.schedulers.median import MedianStopping
from tune_platform.schedulers.mf_pbt import MFPBT
from tune_platform.schedulers.mo_asha import MOASHA
from tune_platform.schedulers.pasha import PASHA
from tune_platform.schedulers.pb2 import PB2
from tune_platform.schedulers.pbt import PBT
from tune_platform.schedulers.replay import Replay
from tune_platform.schedulers.successive_halving import SuccessiveHalving

__all__ = [
    "ASHA",
    "FIFO",
    "MFPBT",
    "MOASHA",
    "PASHA",
    "PB2",
    "PBT",
    "AsyncHyperBand",
    "Candidates",
    "FreezeThaw",
    "HyperBand",
    "MedianStopping",
    "Replay",
    "Scheduler",
    "SuccessiveHalving",
    "TrialView",
    "make_scheduler",
]
