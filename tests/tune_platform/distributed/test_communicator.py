from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tune_platform.distributed.recipes import Exerciser
from tune_platform.distributed import Gang, WorkerGroup
from tune_platform.distributed.communicator import blocks, by_host, check_parts

W = 3


@pytest.fixture(scope="module", params=["threads", pytest.param("processes", marks=pytest.mark.slow)])
def group(request: pytest.FixtureRequest) -> Iterator[WorkerGroup]:
    gang = Gang(request.param, W)
    yield gang.group(30.0)
    gang.close()


@pytest.fixture
def workers(group: WorkerGroup) -> Iterator[WorkerGroup]:
    group.open("test", Exerciser)
    yield group
    group.drop("test")


def test_collectives(workers: WorkerGroup) -> None:
    answers = [answer.value for answer in workers.call("test", "collectives")]
    for rank, got in enumerate(answers):
        assert got == {
            "rank": rank,
            "mean": [1.0, 2.0, 3.0, 4.0],
            "sum": [3.0, 6.0, 9.0, 12.0],
            "max": [2.0, 3.0, 4.0, 5.0],
            "min": [0.0, 1.0, 2.0, 3.0],
            "broadcast": [2.0, 3.0, 4.0, 5.0],
            "all_gather": [[0, 7], [1, 7], [2, 7]],
        }


def test_bytes_over_all_links_are_those_of_the_formulas(workers: WorkerGroup) -> None:
    counted = [answer.value for answer in workers.call("test", "count", 1000)]
    total = {name: sum(each[name] for each in counted) for name in counted[0]}
    payload = 4 * 1000
    assert total == pytest.approx(
        {"all_reduce": 2 * (W - 1) * payload, "all_gather": W * (W - 1) * payload, "broadcast": (W - 1) * payload}
    )


def test_parts_of_a_group(workers: WorkerGroup) -> None:
    # Workers 0 and 1 are one part, worker 2 is the other; then all are one again.
    assert [answer.value for answer in workers.call("test", "parts")] == [
        [0.0, 2.0, 1.0, 3.0],
        [1.0, 2.0, 1.0, 3.0],
        [0.0, 1.0, 2.0, 3.0],
    ]


def test_a_centre_answers_each_worker_in_its_own_time(workers: WorkerGroup) -> None:
    answers = [answer.value for answer in workers.call("test", "ask", 5)]
    replies = sorted(reply for each, _ in answers for reply in each)
    assert replies == [float(n) for n in range(1, 5 * W + 1)]  # one at a time: no addition is lost
    assert {after for _, after in answers} == {5.0 * W}


def test_dividing_a_group() -> None:
    assert blocks(5, 2) == [[0, 1], [2, 3], [4]]
    assert by_host(["a", "b", "a", "c"]) == [[0, 2], [1], [3]]
    for bad in ([[0, 1]], [[0, 1], [1, 2]], [[0], [1], [3]]):
        with pytest.raises(ValueError, match=r"each of the ranks 0 \.\. 2 once"):
            check_parts(bad, 3)


@pytest.mark.slow
def test_bytes_that_gloo_really_sends(tmp_path: Path) -> None:
    """The formulas against the loopback counters of a network namespace (reference table, W = 2 and 4)."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces are not available here")
    script = Path(__file__).with_name("loopback.py")
    command = [unshare, "-rn", "sh", "-c", 'ip link set lo up && exec "$0" "$1" "$2"', sys.executable, str(script), "4"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert ran.returncode == 0, ran.stderr
    sent = dict(line.split() for line in ran.stdout.splitlines() if line)
    expected = {"all_reduce": 6.0, "broadcast": 3.0, "all_gather": 12.0}
    for name, units in expected.items():
        assert float(sent[name]) == pytest.approx(units, rel=0.01), name
