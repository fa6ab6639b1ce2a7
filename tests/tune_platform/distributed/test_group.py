from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tune_platform.distributed.recipes import Exerciser
from tune_platform.distributed import Gang, WorkerGroup
from tune_platform.distributed.group import RemoteGroup


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def pids(group: WorkerGroup) -> list[int]:
    assert isinstance(group, RemoteGroup)
    return [group._peers[worker].pid for worker in group.workers if worker != 0]  # type: ignore[attr-defined]


@pytest.fixture
def gang() -> Iterator[Gang]:
    gang = Gang("processes", 3)
    yield gang
    gang.close()


def test_unknown_kinds_and_sizes() -> None:
    with pytest.raises(ValueError, match="one of threads, processes, ray, got 'thread'"):
        Gang("thread", 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Gang("threads", 0).group()


def test_a_gang_of_one_needs_no_process() -> None:
    gang = Gang("processes", 1)
    group = gang.group()
    group.open("test", Exerciser)
    assert group.call("test", "collectives")[0].value["mean"] == [0.0, 1.0, 2.0, 3.0]
    assert group.call("test", "ask", 2)[0].value == ([1.0, 2.0], 2.0)


@pytest.mark.slow
def test_a_dead_process_is_noticed_replaced_and_nothing_is_left_over(gang: Gang) -> None:
    group = gang.group(30.0)
    group.open("test", Exerciser)
    first = pids(group)
    answers = group.call("test", "die_in_collective", 1)
    assert [answer.lost for answer in answers] == [False, True, False]
    assert answers[0].broken
    assert answers[2].broken
    assert "exit code -9" in answers[1].error
    assert not group.whole
    group.regroup()
    assert [answer.value["rank"] for answer in group.call("test", "collectives")] == [0, 1]
    assert gang.group(30.0) is group  # filled up again: the next trial has a whole gang
    assert [answer.value for answer in group.call("test", "who")] == [(0, 0, False), (2, 1, False), (3, 2, True)]
    last = pids(group)
    assert set(first) & set(last) == {first[1]}
    gang.close()
    assert not any(alive(pid) for pid in {*first, *last})


@pytest.mark.slow
def test_a_worker_that_hangs_is_given_up_after_the_time_out(gang: Gang) -> None:
    group = gang.group(3.0)
    group.open("test", Exerciser)
    answers = group.call("test", "hang_in_collective", 2)
    assert answers[0].broken  # the collective's own time-out
    assert answers[1].broken
    assert answers[2].lost
    assert "did not answer within 3 s" in answers[2].error
    group.regroup()
    assert group.workers == [0, 1]


@pytest.mark.slow
def test_a_mistake_on_one_worker_frees_the_others_at_once(gang: Gang) -> None:
    group = gang.group(60.0)
    group.open("test", Exerciser)
    answers = group.call("test", "mistake")
    assert answers[1].error == "ValueError: a mistake"
    assert 'raise ValueError("a mistake")' in answers[1].traceback
    assert answers[0].broken
    assert answers[2].broken
    assert gang.group(60.0) is group
    assert [answer.value["rank"] for answer in group.call("test", "collectives")] == [0, 1, 2]


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:  # pragma: no cover
        group = Gang("processes", 2).group()
        tmp_path.joinpath("pids").write_text(" ".join(map(str, pids(group))))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    found = [int(pid) for pid in tmp_path.joinpath("pids").read_text().split()]
    assert found
    for _ in range(200):
        if not any(alive(pid) for pid in found):
            break
        signal.sigtimedwait([], 0.1)
    assert not any(alive(pid) for pid in found)
