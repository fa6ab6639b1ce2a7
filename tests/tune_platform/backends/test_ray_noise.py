"""Ray's own lines go to a log while a search runs; what the user's actors print is Ray's to show, as ever."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import ray._private.worker as ray_worker
from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

from tune_platform.backends import _ray_noise
from tune_platform.backends._ray_noise import Quiet

ADVICE = {"pid": "raylet", "lines": ["A worker died: \x1b[33madvice\x1b[0m", "of many lines"], "is_err": True}
PRINTED = {"pid": 7, "lines": ["of an actor of the user's"], "is_err": False}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What reaches it: by the handler that Ray has for what processes print, and by its thread for errors."""
    found: list[Any] = []
    monkeypatch.setattr(dispatcher, "handlers", [("ray_print_logs", found.append), ("another", lambda data: None)])
    monkeypatch.setattr(_ray_noise, "_print", lambda data, ignore_prefix: found.append((data, ignore_prefix)))
    monkeypatch.setattr(ray_worker, "print_to_stdstream", ray_worker.print_to_stdstream)
    monkeypatch.setattr(Quiet, "_held", 0)
    return found


def test_rays_own_lines_go_to_the_log(terminal: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tune_platform.ray")
    quiet = Quiet()
    quiet.start()
    dispatcher.emit(ADVICE)
    ray_worker.print_to_stdstream(ADVICE, ignore_prefix=True)
    assert terminal == []
    assert caplog.messages == ["A worker died: advice", "of many lines"] * 2
    assert {record.levelno for record in caplog.records} == {logging.INFO}  # below what a terminal shows by itself


def test_what_the_users_actors_print_is_shown(terminal: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tune_platform.ray")
    Quiet().start()
    dispatcher.emit(PRINTED)
    ray_worker.print_to_stdstream(PRINTED, ignore_prefix=True)
    assert terminal == [PRINTED, (PRINTED, True)]
    assert caplog.messages == []


def test_a_line_is_shown_again_once_the_last_search_is_over(terminal: list[Any]) -> None:
    first, second = Quiet(), Quiet()
    for quiet in (first, second, second):
        quiet.start()
    assert [name for name, _ in dispatcher.handlers] == ["another", "ray_print_logs"]  # filtered once
    first.stop()
    first.stop()
    dispatcher.emit(ADVICE)
    assert terminal == []
    second.stop()
    dispatcher.emit(ADVICE)
    assert terminal == [ADVICE]
