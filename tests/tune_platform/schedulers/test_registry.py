"""Finding schedulers by name."""

from __future__ import annotations

import pytest

from tune_platform.errors import SpecError
from tune_platform.schedulers import ASHA, FIFO, make_scheduler, scheduler_names


def test_by_name() -> None:
    assert isinstance(make_scheduler("fifo"), FIFO)
    asha = make_scheduler("asha", max=27, type="promotion")
    assert isinstance(asha, ASHA)
    assert (asha.max, asha.type) == (27, "promotion")
    assert isinstance(make_scheduler("async_hyperband"), ASHA)


@pytest.mark.parametrize("name", scheduler_names())
def test_every_name_builds(name: str) -> None:
    assert make_scheduler(name).resource == "step"


def test_an_object_is_returned_as_it_is() -> None:
    scheduler = FIFO()
    assert make_scheduler(scheduler) is scheduler
    with pytest.raises(SpecError, match="options \\['max'\\] go with a scheduler's name"):
        make_scheduler(scheduler, max=3)


def test_mistakes() -> None:
    with pytest.raises(SpecError, match="no scheduler 'ahsa' \\(did you mean 'asha'\\?\\)"):
        make_scheduler("ahsa")
    with pytest.raises(SpecError, match="no option 'maxx' \\(did you mean 'max'\\?\\)"):
        make_scheduler("asha", maxx=9)
    with pytest.raises(SpecError, match="its options: none"):
        make_scheduler("fifo", max=9)
