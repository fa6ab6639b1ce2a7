"""Jobs on a Ray that is elsewhere: which addresses are tried, what is shipped, how a job's end is told."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune_platform.cluster import jobs
from tune_platform.cluster.shipping import EXCLUDES, check_size, measure
from tune_platform.errors import ExperimentError, SpecError

# ------------------------------------------------------------------------------------------ addresses


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked is this machine, whatever proxy the environment names."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize("address", ["head:8265", "10.0.0.5:6379", "ray://head:10001", "http://", "http://head:x", ""])
def test_what_is_no_address_of_a_dashboard(address: str) -> None:
    with pytest.raises(SpecError, match=r"--address: got .* such as http://10.0.0.5:8265"):
        jobs.check_dashboard(address)


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a listener that never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(
        ExperimentError, match=rf"no dashboard of Ray answers at http://127.0.0.1:{port} \(Connection refus"
    ):
        jobs.check_dashboard(f"http://127.0.0.1:{port}")


def test_who_says_nothing_is_given_up(silent: int) -> None:
    with pytest.raises(
        ExperimentError, match=r"no dashboard of Ray answers at \S+ within 0.1 s; that of the head node"
    ):
        jobs.check_dashboard(f"http://127.0.0.1:{silent}", seconds=0.1)


@pytest.mark.parametrize("status", [200, 401], ids=["answers", "wants a token, which Ray's client will say"])
def test_a_dashboard_answers(status: int) -> None:
    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        found = jobs.check_dashboard(f"http://127.0.0.1:{server.server_port}/ ")
        thread.join()
    assert found == f"http://127.0.0.1:{server.server_port}"


# -------------------------------------------------------------------------------------------- folders


def write(path: Path, size: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def test_what_is_made_anew_elsewhere_is_not_counted(tmp_path: Path) -> None:
    for name in (".git/objects/a", ".venv/lib/b", "code/__pycache__/c", "tune_results/d", "x.egg-info/e", "data/f"):
        write(tmp_path / name, 1000)
    write(tmp_path / "code" / "train.py", 20)
    write(tmp_path / "spec.yaml", 3)
    assert measure(tmp_path) == {"code": 20, "spec.yaml": 3, "data": 1000}
    assert measure(tmp_path, [*EXCLUDES, "/data/", "train.*"]) == {"spec.yaml": 3}


def test_what_git_ignores_is_not_counted(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("data/\n*.pt\n")
    write(tmp_path / "data" / "big")
    write(tmp_path / "model" / "weights.pt")
    write(tmp_path / "model" / "train.py", 7)
    assert measure(tmp_path) == {".gitignore": 11, "model": 7}


def test_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a", 10)
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to("../elsewhere")
    (home / "back").symlink_to(".")
    (home / "broken").symlink_to("nowhere")
    assert +measure(home) == {"link": 10}


def test_a_folder_that_is_too_large_is_refused_with_what_is_largest(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a", 3 * 2**20)
    write(tmp_path / "code", 10)
    assert check_size(tmp_path) == 3 * 2**20 + 10
    with pytest.raises(ExperimentError) as caught:
        check_size(tmp_path, limit=2**20)
    assert f"{tmp_path} has 3 MiB to ship, of which the cluster takes 1 MiB; largest: data 3 MiB, code 0 MiB." in str(
        caught.value
    )


def test_a_folder_of_5_gb_is_refused_without_reading_it(tmp_path: Path) -> None:
    with (tmp_path / "data.bin").open("wb") as file:
        file.truncate(5 * 10**9)  # of no blocks
    write(tmp_path / "train.py", 10)
    with pytest.raises(ExperimentError, match=r"has 4768 MiB to ship, .* takes 200 MiB; largest: data\.bin 4768 MiB"):
        check_size(tmp_path)
    assert check_size(tmp_path, ["*.bin"]) == 10


# ------------------------------------------------------------------------------------------- the job


class Cluster:
    """Stands for Ray's client: a job that prints two lines, and whose state is the next of some."""

    def __init__(self, *states: tuple[str, int | None], log: tuple[str, ...] = ("one\n", "two\n")) -> None:
        self.states, self.log = list(states), log
        self.jobs: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def submit_job(self, **job: Any) -> str:
        if self.error:
            raise self.error
        self.jobs.append(job)
        return "raysubmit_1"

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for line in self.log:
            yield line
        if self.error:
            raise self.error

    def get_job_info(self, job_id: str) -> Any:
        status, code = self.states.pop(0)
        return SimpleNamespace(status=status, driver_exit_code=code, message="words of Ray")


@pytest.mark.parametrize(
    ("status", "code", "exits"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", None, 1), ("STOPPED", None, 1), ("FAILED", -9, 137)],
)
def test_a_job_is_followed_to_its_end(status: str, code: int | None, exits: int) -> None:
    said: list[str] = []
    pauses: list[float] = []
    cluster = Cluster(("RUNNING", None), (status, code))
    ending = jobs.follow(cluster, "raysubmit_1", said.append, pauses.append)
    assert (ending, said) == ((exits, status, "words of Ray"), ["one\n", "two\n"])
    assert len(pauses) == 1


def test_a_lost_connection_says_that_the_job_goes_on() -> None:
    cluster = Cluster()
    cluster.error = RuntimeError("WebSocket connection closed unexpectedly\nmore")
    with pytest.raises(ExperimentError, match=r"^lost sight of job j, which goes on: WebSocket .* unexpectedly$"):
        jobs.follow(cluster, "j", lambda text: None)


def test_a_refusal_is_one_line() -> None:
    cluster = Cluster()
    cluster.error = RuntimeError("Request failed with status code 500: no room\nTraceback")
    with pytest.raises(ExperimentError, match=r"^the Ray at http://h:1 does not take the job: Request .* no room$"):
        jobs.submit(cluster, "http://h:1", "true", {})
