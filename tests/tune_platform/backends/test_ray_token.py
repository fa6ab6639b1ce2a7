from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tune_platform.backends._ray_token import forget_token, make_token, want_token
from tune_platform.trainable import report


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


STRANGER = """
import sys
from ray._raylet import GcsClient
try:
    print("in", len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=20)))
except Exception as error:
    print("refused", "InvalidAuthToken" in str(error))
"""


def ask_from_outside(config: dict[str, Any]) -> None:
    """Ask this Ray for its nodes from processes that show its token, none, and another."""
    import ray

    address = ray.get_runtime_context().gcs_address
    bare = {"PATH": os.environ["PATH"], "HOME": config["nowhere"]}
    wrong = {**bare, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    said = {
        name: subprocess.run(
            [sys.executable, "-c", STRANGER, address], env=env, capture_output=True, text=True, check=False
        ).stdout.strip()
        for name, env in (("own", dict(os.environ)), ("none", bare), ("wrong", wrong))
    }
    report({"loss": 0.0, **said})


@pytest.mark.slow
def test_only_who_shows_the_token_is_let_in(tmp_path: Path) -> None:
    script = f"""
from tests.tune_platform.backends.test_ray_token import ask_from_outside
from tune_platform import SearchSpec, run
results = run(SearchSpec(
    name="e", trainable=ask_from_outside, param_space={{"nowhere": {str(tmp_path / "nowhere")!r}}}, metric="loss",
    mode="min", num_samples=1, storage={str(tmp_path / "s")!r}, progress="off", backend="ray",
))
print([results.trial(0).metrics[name] for name in ("own", "none", "wrong")])
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["['in 1', 'refused True', 'refused True']"], done.stdout + done.stderr
