"""Addresses at which there is no Ray, or not one for this process; and starts that a signal ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from tests.tune_platform.backends.processes import command_line, own_folder, running_in
from tune_platform.backends._ray_reach import usable
from tune_platform.backends.ray import RayBackend
from tune_platform.cluster.address import Address
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.protocol.backend import Job
from tune_platform.testing.backends import falling, trainable_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

JOB = Job(experiment="e", trainable=trainable_of(falling), metrics=("loss",))


@pytest.fixture
def silent() -> Iterator[str]:
    """Return an address at which connections are accepted, and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder for Ray in this test alone."""
    with own_folder() as path:
        monkeypatch.setenv("RAY_TMPDIR", str(path))
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        yield path


def test_a_named_address_without_an_answer_is_an_error(silent: str) -> None:
    with pytest.raises(ExperimentError, match=r"gives no answer of a Ray within 1 s. Is the cluster up") as raised:
        RayBackend(silent, connect_s=1).start(JOB)
    assert f"{silent} (from backend.address)" in str(raised.value)
    assert "backend.address: local" in str(raised.value)
    assert not ray.is_initialized()


def test_one_that_was_only_noted_is_passed_over_in_one_line(silent: str, caplog: pytest.LogCaptureFixture) -> None:
    assert usable(Address(silent), 1).text == "local"
    [record] = caplog.records
    assert f"the Ray at {silent}" in record.getMessage()
    assert "is passed over" in record.getMessage()


def test_a_ray_that_exists_takes_no_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune_platform.backends._ray_cluster.usable", lambda address, seconds: address)
    with pytest.raises(SpecError, match=r"backend\.num_cpus: got 4, but the Ray at 127\.0\.0\.1:1 "):
        RayBackend("127.0.0.1:1", num_cpus=4).start(JOB)


def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(SpecError, match="has no port"):
        RayBackend("10.0.0.5")


SEARCH = """
import sys
from tune_platform import SearchSpec, run
from tune_platform.backends.ray import RayBackend

def train(config):
    return {"loss": 1.0}

if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else None
    backend = RayBackend(address, connect_s=100, **({} if address else {"num_cpus": 1}))
    run(SearchSpec(trainable=train, param_space={}, metric="loss", mode="min", num_samples=1, name="e",
                   backend=backend, storage="results"))
"""


def wait_until(what: Callable[[], object], driver: subprocess.Popen[str]) -> None:
    while not what():
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.05)


def end_by(number: signal.Signals, driver: subprocess.Popen[str]) -> None:
    """Send a signal, once, and see that the search ends at it."""
    try:
        driver.send_signal(number)
        _, said = driver.communicate(timeout=60)
    finally:
        driver.kill()
    assert driver.returncode != 0
    assert said.strip().endswith("Interrupted"), said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_an_answer(number: signal.Signals, silent: str, tmp_path: Path) -> None:
    (tmp_path / "search.py").write_text(SEARCH)
    driver = start(tmp_path, silent)
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    wait_until(lambda: "ray_probe.py" in command_lines(children), driver)
    end_by(number, driver)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_ray_that_is_starting(number: signal.Signals, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "search.py").write_text(SEARCH)
    driver = start(tmp_path)
    wait_until(lambda: list(folder.glob("ray/session_2*/logs/gcs_server*")), driver)
    end_by(number, driver)
    while running_in(folder):  # what was started ends with it; the test has a limit
        time.sleep(0.2)


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "search.py", *arguments], cwd=directory,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def command_lines(children: Path) -> str:
    return "".join(command_line(pid) for pid in children.read_text().split())


@pytest.fixture(scope="module")
def own() -> Iterator[str]:
    """Return the address of a Ray that the platform has started on this machine."""
    os.environ.pop("RAY_AUTH_MODE", None)  # `ray.init` itself sets it, in the tests before
    backend = RayBackend("local", num_cpus=1)
    backend.start(JOB)
    yield ray.get_runtime_context().gcs_address
    backend.close()
    assert not ray.is_initialized()
    assert "RAY_AUTH_MODE" not in os.environ, "a Ray of somebody else's would be shown this user's token"


def test_it_listens_on_this_machine_alone(own: str) -> None:
    assert own.startswith("127.0.0.1:")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.connect(("198.51.100.1", 9))  # sends nothing: the system chooses the interface
        mine = any_socket.getsockname()[0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((mine, int(own.rpartition(":")[2])), timeout=5)


def test_a_process_without_the_token_is_refused(own: str, tmp_path: Path) -> None:
    join = "import ray, sys; ray._raylet.GcsClient(address=sys.argv[1]).internal_kv_keys(b'', None)"
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", join, own]
    done = subprocess.run(
        command, env={**foreign, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "InvalidAuthToken" in done.stderr or "Unauthenticated" in done.stderr, done.stderr
    mine = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False)
    assert mine.returncode == 0, mine.stderr


def test_who_has_no_token_is_told_what_to_set(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(ExperimentError, match=r"it wants a token.* set RAY_AUTH_MODE=token"):
        usable(Address(own, "RAY_ADDRESS"), 15)


@pytest.mark.parametrize(
    ("key", "version", "name"), [("ray_version", "2.9.0", "Ray"), ("python_version", "3.8.1", "Python")]
)
def test_another_version_is_told(own: str, key: str, version: str, name: str) -> None:
    client = ray._private.worker.global_worker.gcs_client
    true = client.internal_kv_get(b"CLUSTER_METADATA", b"cluster")
    try:
        false = json.dumps({**json.loads(true), key: version}).encode()
        client.internal_kv_put(b"CLUSTER_METADATA", false, True, b"cluster")
        with pytest.raises(
            ExperimentError, match=f"Version mismatch: .* {name}: {version} .* Both sides need the same"
        ):
            usable(Address(own, "RAY_ADDRESS"), 15)
    finally:
        client.internal_kv_put(b"CLUSTER_METADATA", true, True, b"cluster")
    assert usable(Address(own, "RAY_ADDRESS"), 15).text == own
