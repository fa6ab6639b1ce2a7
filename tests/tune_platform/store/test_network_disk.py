"""A store on the disk of another machine is refused with the reason: SQLite's locks do not hold there."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tune_platform import CheckpointPolicy, SearchSpec, run, uniform
from tune_platform.cli import main
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.location import _MOUNTS, network_file_system
from tune_platform.store.sql import open_store


def train(config: dict[str, float]) -> dict[str, float]:
    return {"loss": config["x"]}


def spec(storage: Path, checkpoints: Path | None = None) -> SearchSpec:
    return SearchSpec(
        name="e", trainable=train, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=1,
        backend="inline", storage=str(storage), progress="off",
        checkpoint=CheckpointPolicy(storage=str(checkpoints) if checkpoints else None),
    )  # fmt: skip


def mounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *mounts: tuple[str, str]) -> None:
    """Have this machine say that these are mounted, as (folder, kind)."""
    lines = [
        f"{20 + number} 1 0:{number} / {place} rw,relatime shared:{number} - {kind} server:/home rw"
        for number, (place, kind) in enumerate(mounts)
    ]
    (tmp_path / "mountinfo").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("tune_platform.location._MOUNTS", tmp_path / "mountinfo")


def test_this_machine_says_what_is_mounted() -> None:
    assert " / " in _MOUNTS.read_text()
    assert network_file_system("/proc") == "", "of this very machine, and no error"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", ""),
        ("/home", "nfs4"),
        ("/home/ada/results", "nfs4"),
        ("/home/local/x", ""),
        ("/homes", ""),
        ("/net/my files/x", "cifs"),
        ("/twice/x", "fuse.sshfs"),
        ("/lustre/x", ""),
    ],
)
def test_the_nearest_mount_decides(path: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(
        monkeypatch, tmp_path, ("/", "ext4"), ("/home", "nfs4"), ("/home/local", "xfs"), ("/net/my\\040files", "cifs"),
        ("/twice", "ext4"), ("/twice", "fuse.sshfs"), ("/lustre", "lustre"),
    )  # fmt: skip
    assert network_file_system(path) == kind


def test_a_link_to_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    mounted(monkeypatch, tmp_path, ("/", "ext4"), (str(tmp_path / "there"), "nfs"))
    assert network_file_system(tmp_path / "link" / "results") == "nfs"


def test_nothing_is_made_there_and_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "there"
    place.mkdir()
    mounted(monkeypatch, tmp_path, ("/", "ext4"), (str(place), "nfs4"))
    told = r"network file system \(nfs4\), where the locks .* of SQLite do not hold.* local disk .* PostgreSQL"
    with pytest.raises(SpecError, match=told):
        run(spec(place))
    with pytest.raises(ExperimentError, match=told), open_store(place) as store:
        store.create("e", {}, 1.0)
    with pytest.raises(ExperimentError, match=told), open_store(f"sqlite:///{place}/e.db") as store:
        store.create("e", {}, 1.0)
    assert list(place.iterdir()) == []
    found = CliRunner().invoke(main, ["doctor", "--storage", str(place)])
    assert found.exit_code == 1
    assert "network file system (nfs4)" in found.stdout


def test_checkpoints_may_lie_there_and_what_is_there_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "there"
    run(spec(place))
    mounted(monkeypatch, tmp_path, ("/", "ext4"), (str(place), "nfs4"))
    with open_store(place) as store:
        assert store.experiments()[0].status == "finished"
    shown = CliRunner().invoke(main, ["best", "e", "--storage", str(place)])
    assert shown.exit_code == 0
    stopped = CliRunner().invoke(main, ["stop", "e", "--storage", str(place)])
    assert stopped.exit_code == 2
    assert stopped.stderr.count("\n") == 1
    spec(tmp_path / "local", place / "checkpoints").check()
