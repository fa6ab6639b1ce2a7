"""What a gang says where it cannot be had; what it does once it runs is in `test_group.py` and `test_gang_ray.py`."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest
import torch

from tune_platform.distributed import Gang, LocalGroup, PeerLost
from tune_platform.distributed.member import Answer
from tune_platform.errors import MissingLibraryError, SpecError


def test_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="a gang is one of threads, processes, ray, got 'fibres'"):
        Gang("fibres", 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_gpus_that_torch_does_not_see(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gang = Gang(kind, 2, {"cpu": 1.0, "gpu": 0.5})
    with pytest.raises(SpecError, match=r"each worker holds 0\.5 GPU, but torch .* sees none here"):
        gang.group()
    assert gang.broken
    gang.close()


def test_why_no_group_was_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    group = LocalGroup(2)
    answers = [Answer(0), Answer(1, error="ValueError: no route to host", broken=True)]
    monkeypatch.setattr(group, "_meet", lambda: answers)
    with pytest.raises(PeerLost, match=r"2 workers did not form a group in 3 attempts; the last: .*no route to host"):
        group.regroup()


def test_a_gang_travels_before_it_has_workers_and_a_start_ahead_is_for_ray_alone() -> None:
    gang = pickle.loads(pickle.dumps(Gang("threads", 2)))
    gang.start()
    assert gang.group().workers == [0, 1]
    gang.close()


def test_without_torch_none_start_and_who_asks_for_them_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function may use what its trial holds in a way of its own; the worker process must not die of torch."""
    monkeypatch.setitem(sys.modules, "torch", None)
    gang = Gang("ray", 2)
    gang.start()
    with pytest.raises(
        MissingLibraryError, match=r"a gang of workers needs 'torch'.*pip install 'tune-platform\[torch"
    ):
        gang.group()
    gang.close()
