"""A password in the URL of a store is in no output, no log and no file of any command."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tune_platform.cli.conftest import Call
from tests.tune_platform.cli.test_cli_run import SPEC_TEXT, TOY
from tune_platform.location import Location, without_secrets
from tune_platform.spec import load_spec
from tune_platform.store.sql import open_store

SECRET = "pl4nted-s3cret"
#: A server that nobody has, so that each command ends in an error; the password holds signs with a meaning in URLs.
AWAY = [
    f"postgresql://me:{SECRET}@127.0.0.1:9/tune",
    f"postgresql://me:{SECRET}@{SECRET}/{SECRET}@127.0.0.1:9/tune",
    f"postgresql://me@127.0.0.1:9/tune?password={SECRET}",
    f"postgresql://me:{SECRET}@no-such-host.invalid:port/tune",
    f"mysql://me:{SECRET}@127.0.0.1/tune",
    f"s3://key:{SECRET}@bucket/folder",
]
READING = [
    ["show", "toy"], ["show", "toy", "0"], ["show", "toy", "--json"], ["ls"], ["ls", "--json"], ["why", "toy", "0"],
    ["best", "toy"], ["best", "toy", "--json"], ["export", "toy"], ["doctor"], ["doctor", "--json"],
    ["resume", "toy", "--extend", "trials=1"], ["resume", "toy", "--log-format", "json"], ["stop", "toy"],
    ["enqueue", "toy", "x=1"], ["show", "another"],
]  # fmt: skip
STARTING = [
    ["check", "toy.yaml"], ["check", "toy.yaml", "--explain"], ["check", "toy.yaml", "--json"],
    ["run", "toy.yaml", "--dry-run"], ["run", "toy.yaml", "--name", "toy"], ["run", "toy.yaml", "--name", "toy"],
    ["run", "toy.yaml", "--log-format", "json"],
]  # fmt: skip


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a spec and its module, in which the commands are given."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "toy_for_cli.py").write_text(TOY)
    (folder / "toy.yaml").write_text(SPEC_TEXT)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("TUNE_PLATFORM_DEBUG", "1")  # tracebacks too
    yield folder
    sys.modules.pop("toy_for_cli", None)


def clean(folder: Path) -> None:
    """See that no file holds the secret."""
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("url", AWAY)
@pytest.mark.parametrize("by", ["flag", "environment", "file", "set"])
def test_no_error_shows_a_password(
    call: Call, toy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], url: str, by: str
) -> None:
    words = {"flag": ["--storage", url], "set": ["--set", f"storage.url={url}"]}.get(by, [])
    if by == "environment":
        monkeypatch.setenv("TUNE_PLATFORM_STORAGE", url)
    else:
        monkeypatch.delenv("TUNE_PLATFORM_STORAGE")
    if by == "file":
        (toy / "toy.yaml").write_text(f"{SPEC_TEXT}storage: {{url: '{url}'}}\n")
    commands = STARTING if by in ("set", "file") else READING + STARTING
    for command in commands:
        result = call(*command, *words, code=None)
        assert result.exit_code in (0, 1, 2), result.output
        assert SECRET not in result.output, command
    captured = capfd.readouterr()
    assert SECRET not in captured.out + captured.err
    if by != "file":
        clean(toy)


def test_no_command_on_a_store_with_a_password_shows_it(
    call: Call, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/store.db?password={SECRET}"
    everything = ""
    for command in STARTING + READING:
        result = call(*command, "--storage", url, code=None)
        assert SECRET not in result.output, command
        everything += result.output
    assert "4 completed" in everything
    clean(tmp_path)
    # What is to be given next can be pasted: the shell puts the URL in.
    ended = call("run", "toy.yaml", "--name", "second", "--storage", url).stdout
    assert ended.count('--storage "$TUNE_PLATFORM_STORAGE"') == 4
    assert "***" not in ended.partition("next:")[2]
    monkeypatch.setenv("TUNE_PLATFORM_STORAGE", url)
    assert "--storage" not in call("resume", "second", "--extend", "trials=1").stdout


def test_mistakes_around_a_url_do_not_show_it(call: Call, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNE_PLATFORM_STORAGE")
    url = f"postgresql://me:{SECRET}@127.0.0.1:9/tune"
    (toy / "toy.yaml").write_text(f"{SPEC_TEXT}storage: {{path: '{url}', url: '{url}'}}\n")
    assert SECRET not in call("check", "toy.yaml", code=2).output
    (toy / "toy.yaml").write_text(f"{SPEC_TEXT}storage: ['{url}']\n")
    assert SECRET not in call("check", "toy.yaml", code=2).output
    (toy / "toy.yaml").write_text(f"{SPEC_TEXT}storage: {url}\n  x: [\n")
    assert SECRET not in call("check", "toy.yaml", code=2).output
    (toy / "toy.yaml").write_text(f"{SPEC_TEXT}storage: {url}\n")
    assert SECRET not in call("check", "toy.yaml", "--set", "storage.path.x=1", code=2).output


@pytest.mark.parametrize(
    "url",
    [f"s3://key:{SECRET}@bucket/x", f"ftp://me:{SECRET}@host/x", f"memory://x?token={SECRET}", f"s4://k:{SECRET}@x"],
)
def test_a_key_in_the_place_of_checkpoints_is_refused_and_nowhere_shown(
    call: Call, toy: Path, capfd: pytest.CaptureFixture[str], url: str
) -> None:
    for command in STARTING:
        result = call(*command, "--set", f"checkpoint.storage={url}", code=2)
        assert SECRET not in result.output, command
        assert "***" in result.output, command
    captured = capfd.readouterr()
    assert SECRET not in captured.out + captured.err
    clean(toy)
    assert "AWS_SECRET_ACCESS_KEY" in result.output or "fsspec knows no s4://" in result.output


def test_what_was_begun_with_a_key_in_the_place_of_checkpoints_does_not_go_on(
    call: Call, storage: Path, toy: Path
) -> None:
    spec = load_spec("toy.yaml").to_dict()
    with open_store(storage) as store:
        spec["checkpoint"] = {"every": 1, "storage": f"s3://key:{SECRET}@bucket/x"}
        store.create("old", spec, created=1.0).close()
    result = call("resume", "old", code=2)
    assert "its checkpoints lie in 's3://key:***@bucket/x', with a key in the path" in result.output
    for command in ("show old", "show old --json", "resume old", "doctor old"):
        assert SECRET not in call(*command.split(), code=None).output, command


@pytest.mark.parametrize(
    ("url", "shown", "unmasked"),
    [
        ("/data/a:b@c", "/data/a:b@c", None),
        ("postgresql://me@db/x", "postgresql://me@db/x", None),
        ("postgresql://db:5432/x", "postgresql://db:5432/x", None),
        ("postgresql://me:pw@db/x", "postgresql://me:***@db/x", None),
        ("postgresql://me:p@w/x@db/x", "postgresql://me:***@db/x", "postgresql://me:p%40w%2Fx@db/x"),
        ("postgresql://me:p%40w@db/x", "postgresql://me:***@db/x", None),
        ("postgresql://:pw@db/x", "postgresql://:***@db/x", None),
        ("postgresql:///x?user=me&password=pw&sslmode=off", "postgresql:///x?user=me&password=***&sslmode=off", None),
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db", None),
    ],
)
def test_a_location_is_masked_whenever_it_becomes_text(url: str, shown: str, unmasked: str | None) -> None:
    location = Location(url)
    assert f"{location}" == str(location) == "%s" % location == "{}".format(location) == shown  # noqa: UP031, UP032
    assert repr(location) == repr(shown)
    assert json.loads(json.dumps({"storage": location})) == {"storage": shown}
    assert location.unmasked == (unmasked or url)
    assert pickle.loads(pickle.dumps(location)).unmasked == (unmasked or url)
    assert Location(location).unmasked == (unmasked or url)
    assert location.has_secret == (shown != url)


def test_passwords_within_other_text_are_masked() -> None:
    assert without_secrets("{'url': 'pg://me:pw@db/x', 'n': 1}") == "{'url': 'pg://me:***@db/x', 'n': 1}"
    assert without_secrets("see https://host/page: me@host") == "see https://host/page: me@host"
