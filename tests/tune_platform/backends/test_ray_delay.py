from __future__ import annotations

import math
import time

import pytest

from tune_platform.backends._ray_delay import Delayed
from tune_platform.testing.backends import launch


def test_launches_wait_until_the_time_and_can_be_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    delayed = Delayed()
    assert not delayed.hold(launch(0, 2)), "nothing is held back where nothing is wrong"
    delayed.hold_until(110.0)
    delayed.hold_until(105.0)
    assert [delayed.hold(launch(trial, 2)) for trial in (1, 2, 3)] == [True, True, True]
    assert (bool(delayed), delayed.at, delayed.due(109.0)) == (True, 110.0, [])
    taken = delayed.take(2)
    assert taken is not None
    assert delayed.take(2) is None
    now[0] = 110.0
    assert [one.trial for one in delayed.due(now[0])] == [1, 3]
    assert (bool(delayed), delayed.at) == (False, math.inf)
    assert not delayed.hold(launch(4, 2))
