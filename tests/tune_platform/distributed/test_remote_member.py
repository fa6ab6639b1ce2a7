"""The other workers of a gang: what they print, and how each trial finds their processes."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.tune_platform.backends.spoiling import found, spoil
from tune_platform.distributed import Gang
from tune_platform.distributed.member import Place
from tune_platform.trainable import TrialContext

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Served:
    """What a test has each worker do."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.first = found()

    def found(self) -> tuple[int, dict[str, Any]]:
        return os.getpid(), self.first

    def now(self) -> dict[str, Any]:
        return found()

    def spoil(self) -> None:
        if self.place.slot:  # the first worker is this process, which the executor puts back
            spoil()

    def say(self, word: str) -> None:
        if self.place.slot:
            print(word, "in python")  # noqa: T201
            sys.stderr.write("a warning\n")
            os.write(1, b"descriptor 1\n")
            os.system("echo a child")

    def leave_a_thread(self) -> None:
        if self.place.slot:
            threading.Thread(target=forever, daemon=True).start()


def forever() -> None:
    while True:
        time.sleep(0.01)


@dataclass
class Maker:
    context: TrialContext

    def __call__(self, place: Place) -> Served:
        return Served(place)


def test_each_trial_finds_the_others_as_the_first_one_did_and_has_what_they_print(tmp_path: Path) -> None:
    gang = Gang("processes", 2)
    try:
        group = gang.group()
        seen: list[tuple[int, dict[str, Any]]] = []
        for trial in (0, 1, 0):
            name = f"{trial} {len(seen)}"
            group.open(name, Maker(TrialContext(trial=trial, seed=trial, folder=str(tmp_path / str(trial)))))
            seen.append(group.call(name, "found")[1].value)
            assert all(answer.ok for answer in group.call(name, "say", f"trial {trial}"))
            assert group.call(name, "spoil")[1].ok
            assert group.call(name, "now")[1].value["variables"] != seen[-1][1]["variables"]
            group.drop(name)
        (pid, first), (second_pid, second), (third_pid, third) = seen
        assert pid == second_pid == third_pid != os.getpid()
        assert third == first, "the process is as it was, and what it draws depends on the trial alone"
        assert second.pop("draws") != first["draws"]
        assert second == {name: value for name, value in first.items() if name != "draws"}

        once = "".join(f"[rank 1] {line}\n" for line in ("trial 1 in python", "a warning", "descriptor 1", "a child"))
        assert (tmp_path / "1" / "log.txt").read_text() == once
        assert (tmp_path / "0" / "log.txt").read_text() == once.replace("trial 1", "trial 0") * 2

        # Two trials that are held at once, as where paused ones are kept warm.
        for trial in (2, 3):
            group.open(str(trial), Maker(TrialContext(trial=trial, folder=str(tmp_path / str(trial)))))
        before = group.call("3", "now")[1].value["variables"]
        group.call("2", "spoil")
        assert group.call("3", "now")[1].value["variables"] == before
        assert group.call("2", "now")[1].value["variables"] != before
        for trial in (2, 3):
            group.call(str(trial), "say", f"trial {trial}")
        group.call("2", "say", "once more")
        for trial in (3, 2):
            group.drop(str(trial))
        told = [(tmp_path / str(trial) / "log.txt").read_text() for trial in (2, 3)]
        assert [text.count("in python") for text in told] == [2, 1]
        assert "trial 2" in told[0]
        assert "trial 3" in told[1]

        # A thread that still runs training code: the process is not used again.
        group.open("4", Maker(TrialContext(trial=4)))
        group.call("4", "leave_a_thread")
        group.drop("4")
        assert group.lost == 1
        group = gang.group()
        assert group.lost == 0
        group.open("5", Maker(TrialContext()))
        assert group.call("5", "found")[1].value[0] != pid
    finally:
        gang.close()
