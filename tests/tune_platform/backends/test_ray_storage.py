"""Checkpoints of workers on Ray where storage goes wrong under them: it hangs, blocks, is full, loses files."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import ray

from tests.conftest import Endpoint
from tune_platform import CheckpointPolicy, Results, SearchSpec, Trainable, run, uniform
from tune_platform.store.checkpoints import CheckpointStorage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

STEPS = 4


class Heavy(Trainable):
    """Counts; its checkpoints have 100 kB."""

    def setup(self, config: dict[str, Any]) -> None:
        self.now = 0

    def step(self) -> Mapping[str, Any] | None:
        if self.now == STEPS:
            return None
        time.sleep(0.05)
        self.now += 1
        return {"loss": self.config["x"] / self.now}

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "now").write_text(str(self.now))
        (directory / "weights").write_bytes(os.urandom(100_000))

    def load_checkpoint(self, directory: Path) -> None:
        self.now = int((directory / "now").read_text())


@pytest.fixture(scope="module", autouse=True)
def own_ray(s3: Endpoint) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        ray.shutdown()


def search(storage: Path, checkpoints: str, listener: Any, **more: Any) -> Results:
    spec: dict[str, Any] = {
        "trainable": Heavy, "param_space": {"x": uniform(0, 1)}, "metric": "loss", "mode": "min", "num_samples": 4,
        "scheduler": "fifo", "searcher": "random", "backend": "ray", "storage": str(storage), "retries": {},
        "checkpoint": CheckpointPolicy(every=1, storage=checkpoints), "progress": "off", "name": "e",
    }  # fmt: skip
    return run(SearchSpec(**spec | more), listeners=[listener])


def check_whole(results: Results) -> None:
    """Every step of every trial was reported once, in order."""
    frame = results.dataframe(reports=True)
    for trial in results:
        assert list(frame[frame["trial"] == trial.number]["step"]) == list(range(1, trial.step + 1))


def test_an_endpoint_that_hangs_is_waited_for(s3: Endpoint, bucket: str, tmp_path: Path) -> None:
    stopped: list[threading.Timer] = []

    def listener(run: Any, events: Any, effects: Any) -> None:
        if not stopped and any(report.step == 2 for event in events for report in getattr(event, "reports", ())):
            os.kill(s3.process.pid, signal.SIGSTOP)
            stopped.append(threading.Timer(4.0, os.kill, (s3.process.pid, signal.SIGCONT)))
            stopped[0].start()

    try:
        results = search(tmp_path, bucket, listener)
    finally:
        os.kill(s3.process.pid, signal.SIGCONT)
    stopped[0].join()
    assert results.counts == {"COMPLETED": 4}
    check_whole(results)
    last = {(ref.trial, ref.step) for ref in CheckpointStorage(f"{bucket}/e").list()}
    assert {(number, STEPS) for number in range(4)} <= last, "and nothing that was to be kept is missing"


def test_what_an_object_store_has_lost_costs_the_steps_since_the_one_before(bucket: str, tmp_path: Path) -> None:
    lost: list[int] = []

    def listener(run: Any, events: Any, effects: Any) -> None:
        storage = CheckpointStorage(f"{bucket}/e")
        for effect in effects:
            if type(effect).__name__ == "Moved" and effect.status == "PAUSED" and not lost:
                newest = [ref for ref in storage.list() if ref.trial == effect.trial][-1:]
                if newest and newest[0].step == 2:
                    import s3fs

                    s3fs.S3FileSystem().rm_file(f"{newest[0].uri}/files/weights")
                    lost.append(effect.trial)

    results = search(
        tmp_path, bucket, listener, num_samples=8, keep_warm=0, retries={"lost_checkpoint": 1},
        scheduler={"name": "asha", "min": 2, "max": STEPS, "eta": 2, "type": "promotion"},
    )  # fmt: skip
    assert lost
    assert "FAILED" not in results.counts
    check_whole(results)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    if os.geteuid() != 0:
        pytest.skip("not root: no disk can be mounted")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_search_waits_until_a_full_disk_has_room(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 150_000))  # room for one checkpoint

    def listener(run: Any, events: Any, effects: Any) -> None:
        if any("a disk is full" in record.getMessage() for record in caplog.records):
            filler.unlink(missing_ok=True)

    with caplog.at_level(logging.WARNING):
        kept = CheckpointPolicy(every=1, keep_last=1, storage=str(small_disk / "checkpoints"))
        results = search(tmp_path, "", listener, checkpoint=kept)
    assert not filler.exists()
    assert results.counts == {"COMPLETED": 4}
    check_whole(results)
    said = [record.getMessage() for record in caplog.records]
    assert sum("there is room on the disk again" in line for line in said) >= 1


@pytest.fixture
def blocking_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, which `fsfreeze` can block: whoever writes to it then hangs in the kernel."""
    if os.geteuid() != 0:
        pytest.skip("not root: no disk can be mounted")
    place, image = tmp_path / "blocking", tmp_path / "image"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    for words in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(place)]):
        if not shutil.which(words[0]):
            pytest.skip(f"no {words[0]} on this machine")
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be mounted: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_blocks_in_the_kernel_is_waited_for(blocking_disk: Path, tmp_path: Path) -> None:
    if not shutil.which("fsfreeze"):
        pytest.skip("no fsfreeze on this machine")
    thawed = threading.Event()

    def thaw() -> None:
        thawed.set()
        subprocess.run(["fsfreeze", "--unfreeze", str(blocking_disk)], check=True)

    timer, frozen = threading.Timer(4.0, thaw), False
    after: list[bool] = []  # of each later save, whether the disk had gone on by then

    def listener(run: Any, events: Any, effects: Any) -> None:
        nonlocal frozen
        saved = [ref for event in events for ref in getattr(event, "saved", ())]
        if not frozen and any(ref.step == 2 for ref in saved):
            subprocess.run(["fsfreeze", "--freeze", str(blocking_disk)], check=True)
            frozen = True
            timer.start()
        elif frozen and saved:
            after.append(thawed.is_set())

    try:
        kept = CheckpointPolicy(every=1, storage=str(blocking_disk / "checkpoints"))
        results = search(tmp_path, "", listener, checkpoint=kept)
    finally:
        if frozen:
            timer.join()
    assert frozen
    assert after[-1], "the last save was one that had to wait"
    assert results.counts == {"COMPLETED": 4}
    check_whole(results)
    last = {(ref.trial, ref.step) for ref in CheckpointStorage(str(blocking_disk / "checkpoints" / "e")).list()}
    assert {(number, STEPS) for number in range(4)} <= last
