"""What becomes of a trial that a person asks something for."""

from __future__ import annotations

from tune_platform.engine.trial import HELD, STOPPED_BY_A_PERSON, STOPPING, Trial, TrialStatus
from tune_platform.protocol.effects import Moved
from tune_platform.protocol.verdicts import Pause, Stop


def answer(trial: Trial, action: str) -> Pause | Stop | Moved | None:
    """Return what follows from stop, cancel, pause or unpause; None where there is nothing to do."""
    if action == "stop" and trial.status in (TrialStatus.RUNNING, TrialStatus.PAUSING) and not trial.waits:
        return None if trial.stopping else Pause(reason=STOPPING)
    if action in ("stop", "cancel"):
        return Stop(reason=STOPPED_BY_A_PERSON)
    if action == "pause" and trial.status not in (TrialStatus.PAUSED, TrialStatus.PAUSING):
        return Pause(reason=HELD)
    if action == "unpause" and trial.status is TrialStatus.PAUSED and trial.reason == HELD:
        # One that the scheduler had paused already goes on waiting for the scheduler.
        return Moved(trial=trial.number, status="PENDING", reason="a person let it go on")
    return None
