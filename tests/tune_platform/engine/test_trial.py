"""One table of legal moves."""

from __future__ import annotations

from itertools import product

import pytest

from tune_platform.engine.trial import Kept, Trial, TrialStatus
from tune_platform.errors import IllegalTransition
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.resources import Resources

S = TrialStatus
LEGAL = {
    (S.PENDING, S.STARTING), (S.PENDING, S.PAUSED),
    (S.PENDING, S.COMPLETED), (S.PENDING, S.STOPPED), (S.PENDING, S.FAILED),
    (S.STARTING, S.RUNNING), (S.STARTING, S.PAUSED), (S.STARTING, S.PENDING),
    (S.STARTING, S.COMPLETED), (S.STARTING, S.STOPPED), (S.STARTING, S.FAILED),
    (S.RUNNING, S.PAUSING), (S.RUNNING, S.PAUSED), (S.RUNNING, S.PENDING),
    (S.RUNNING, S.COMPLETED), (S.RUNNING, S.STOPPED), (S.RUNNING, S.FAILED),
    (S.PAUSING, S.PAUSED), (S.PAUSING, S.PENDING),
    (S.PAUSING, S.COMPLETED), (S.PAUSING, S.STOPPED), (S.PAUSING, S.FAILED),
    (S.PAUSED, S.PENDING), (S.PAUSED, S.COMPLETED), (S.PAUSED, S.STOPPED),
    (S.FAILED, S.PENDING),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), list(product(S, S)))
def test_moves(old: TrialStatus, new: TrialStatus) -> None:
    trial = Trial(7, {}, Resources(), status=old)
    trial.history.append((0.5, "STORY", "as it was"))
    if (old, new) in LEGAL:
        trial.move(new, 3.0, "because")
        assert (trial.status, trial.reason, trial.history[-1]) == (new, "because", (3.0, new.value, "because"))
        assert trial.ended == (3.0 if new.final else None)
        assert trial.started == (3.0 if new is S.RUNNING else None)
    else:
        with pytest.raises(IllegalTransition, match=f"trial 7 cannot move from {old} to {new}(.|\n)*as it was"):
            trial.move(new, 3.0)
        assert trial.status is old


def test_final() -> None:
    assert [status for status in S if status.final] == [S.COMPLETED, S.STOPPED, S.FAILED]
    assert [status for status in S if status.placed] == [S.STARTING, S.RUNNING, S.PAUSING]


def test_started_is_the_first_start() -> None:
    trial = Trial(0, {}, Resources())
    for time, status in enumerate([S.STARTING, S.RUNNING, S.PENDING, S.STARTING, S.RUNNING]):
        trial.move(status, float(time))
    assert trial.started == 1.0


def test_a_history_is_bounded() -> None:
    trial = Trial(0, {}, Resources())
    for time in range(300):
        trial.move(S.PAUSED, float(time))
        trial.move(S.PENDING, float(time))
    assert 32 <= len(trial.history) <= 64
    assert trial.history[-1] == (299.0, "PENDING", "")


def test_configs_by_their_order() -> None:
    trial = Trial(0, {"x": 3}, Resources(), configs=[(2, {"x": 1}), (4, {"x": 2})])
    assert [trial.config_number(number) for number in range(3)] == [{"x": 1}, {"x": 2}, {"x": 3}]


def test_step_and_checkpoint() -> None:
    trial = Trial(0, {}, Resources())
    assert (trial.step, trial.checkpoint) == (0, None)
    trial.last = Report(4, {}, 0.0)
    trial.checkpoints += [Kept(2, CheckpointRef(0, 2, "a"), None), Kept(4, CheckpointRef(0, 4, "b"), None)]
    assert trial.step == 4
    assert trial.checkpoint is not None
    assert trial.checkpoint.ref.uri == "b"
