from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tune_platform.backends._ray_token import forget_token, make_token, want_token


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path
    forget_token()


def test_it_is_made_once_and_only_its_user_can_read_it(home: Path) -> None:
    make_token()
    file = home / ".ray" / "auth_token"
    token = file.read_text()
    assert len(token) == 64
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)  # as Ray makes it
    make_token()
    assert file.read_text() == token
    assert file.stat().st_mode & 0o777 == 0o600


def test_where_none_can_be_kept_the_process_has_its_own(home: Path) -> None:
    (home / ".ray").write_text("no folder")
    make_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    forget_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_what_the_user_says_of_it_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    make_token()
    assert not (home / ".ray").exists()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    want_token()
    forget_token()
    assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]) == ("disabled", "mine")


def test_a_ray_that_was_named_is_not_shown_the_token() -> None:
    want_token(named=True)
    assert "RAY_AUTH_MODE" not in os.environ
    want_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
