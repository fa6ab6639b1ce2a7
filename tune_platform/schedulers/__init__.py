"""Schedulers say who goes on. `make_scheduler` finds one by name."""

from tune_platform.protocol.scheduler import Candidates, Scheduler, TrialView
from tune_platform.registry import make_scheduler
from tune_platform.schedulers.asha import ASHA
from tune_platform.schedulers.fifo import FIFO

__all__ = ["ASHA", "FIFO", "Candidates", "Scheduler", "TrialView", "make_scheduler"]
