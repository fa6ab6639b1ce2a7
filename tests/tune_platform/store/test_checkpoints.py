from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tune_platform.errors import CheckpointError
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.store import _checkpoint_files as files_module
from tune_platform.store import checkpoints as module
from tune_platform.store._checkpoint_files import StorageAway, measure, reaching
from tune_platform.store.checkpoints import CheckpointStorage


@pytest.fixture(params=["local", "file-url", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "s3":
        yield request.getfixturevalue("bucket")
        return
    if request.param != "memory":
        yield f"{'file://' if request.param == 'file-url' else ''}{tmp_path / 'checkpoints'}"
        return
    import fsspec

    where = f"memory://{uuid.uuid4().hex}/checkpoints"
    yield where
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def storage(root: str) -> CheckpointStorage:
    return CheckpointStorage(root)


def files(storage: CheckpointStorage) -> dict[str, bytes]:
    """Every file below the root."""
    if "://" not in storage.root:
        base = Path(storage.root)
        return {p.relative_to(base).as_posix(): p.read_bytes() for p in base.rglob("*") if p.is_file()}
    import fsspec

    fs, base = fsspec.core.url_to_fs(storage.root)
    found = fs.find(base) if fs.exists(base) else []
    return {path.removeprefix(base).lstrip("/"): fs.cat_file(path) for path in found}


def change(storage: CheckpointStorage, name: str, content: bytes | None) -> None:
    """Write or delete one file behind the storage's back."""
    import fsspec

    fs, base = fsspec.core.url_to_fs(storage.root)
    fs.rm_file(f"{base}/{name}") if content is None else fs.pipe_file(f"{base}/{name}", content)


def write(directory: Path) -> None:
    (directory / "model.pt").write_bytes(b"weights" * 100)
    (directory / "sub" / "größe").mkdir(parents=True)
    (directory / "sub" / "größe" / "manifest.json").write_text("mine")
    (directory / "manifest.json").write_text("mine too")
    (directory / "empty").touch()


def test_what_was_fetched_stays_and_is_not_fetched_again(
    storage: CheckpointStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = storage.save(42, 9, 0, write)
    first = storage.fetch(ref, tmp_path / "cache")
    assert (first / "model.pt").read_bytes() == b"weights" * 100
    if not isinstance(storage._store, files_module.Local):
        monkeypatch.setattr(storage, "restore", pytest.fail)
    assert storage.fetch(ref, tmp_path / "cache") == first


def test_save_and_restore(storage: CheckpointStorage) -> None:
    ref = storage.save(42, 9, 0, write)
    assert (ref.trial, ref.step, ref.bytes) == (42, 9, 712)
    assert ref.uri == f"{storage.root}/trial-00042/step-00000009-a0"
    manifest = json.loads(files(storage)["trial-00042/step-00000009-a0/manifest.json"])
    assert {"format_version": 1, "trial": 42, "step": 9}.items() <= manifest.items()
    assert set(manifest["files"]) == {"model.pt", "sub/größe/manifest.json", "manifest.json", "empty"}
    assert abs(manifest["created"] - time.time()) < 60
    with storage.restore(ref) as path:
        assert (path / "model.pt").read_bytes() == b"weights" * 100
        assert (path / "sub" / "größe" / "manifest.json").read_text() == "mine"
        assert (path / "manifest.json").read_text() == "mine too"
        assert (path / "empty").read_bytes() == b""
    assert storage.list() == [ref]


def test_a_copied_directory_is_hashed_while_it_is_copied(
    storage: CheckpointStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write(source)
    big = random.Random(0).randbytes(7_654_321)  # many chunks, and a part of one
    (source / "big").write_bytes(big)
    (source / "big").chmod(0o640)
    (source / "link").symlink_to("big")
    (source / "nothing").mkdir()
    draft = storage.draft(7)
    draft.copy(source)
    (source / "big").write_text("changed")
    (draft.files / "own").write_text("not copied")
    read: list[str] = []

    def measured(path: Path) -> dict[str, Any]:
        read.append(path.name)
        return measure(path)

    monkeypatch.setattr(module, "measure", measured)
    ref = draft.keep(3, 1)
    assert read == ["own"]
    assert storage.list() == [ref]
    assert ref.bytes == 712 + 2 * len(big) + 10
    with storage.restore(ref) as path:  # compares the sums
        assert (path / "big").read_bytes() == (path / "link").read_bytes() == big
        assert not (path / "link").is_symlink()
        if "://" not in storage.root:
            assert (path / "big").stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_copied_leaves_nothing(tmp_path: Path) -> None:
    storage = CheckpointStorage(str(tmp_path / "root"))
    source = tmp_path / "source"
    source.mkdir()
    write(source)
    os.mkfifo(source / "pipe")
    with pytest.raises(CheckpointError, match="pipe' is neither"):
        storage.draft(0).copy(source)
    with pytest.raises(CheckpointError, match="cannot hold itself"):
        storage.draft(0).copy(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        storage.draft(0).copy(tmp_path / "nowhere")
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_draft_is_not_seen(storage: CheckpointStorage) -> None:
    draft = storage.draft(0)
    write(draft.files)
    assert storage.list() == []
    draft.discard()
    assert files(storage) == {}
    with pytest.raises(CheckpointError, match="must not be negative"):
        storage.draft(0).keep(-1, 0)
    assert files(storage) == {}


def test_every_directory_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(files_module, "_sync", lambda path: synced.append(path.name))
    CheckpointStorage(str(tmp_path)).save(0, 1, 0, write)
    # The trial's, which the checkpoint is renamed into, comes last; the hidden one before has any name.
    assert synced[-1] == "trial-00000"
    assert {"manifest.json", "model.pt", "empty", "größe", "sub", "files"} <= set(synced)
    synced.clear()
    CheckpointStorage(str(tmp_path), durable=False).save(0, 2, 0, write)
    assert synced == []


def test_a_file_url_is_accepted_in_a_ref(tmp_path: Path) -> None:
    ref = CheckpointStorage(str(tmp_path)).save(0, 1, 0, write)
    with CheckpointStorage(f"file://{tmp_path}").restore(replace(ref, uri=f"file://{ref.uri}")) as path:
        assert (path / "model.pt").exists()


def test_saving_again_replaces(storage: CheckpointStorage) -> None:
    storage.save(0, 1, 0, write)
    ref = storage.save(0, 1, 0, lambda path: (path / "only").touch())
    with storage.restore(ref) as path:
        assert [p.name for p in path.iterdir()] == ["only"]
    assert storage.list() == [ref]
    assert not any(".tmp-" in name for name in files(storage))


def test_nothing_is_left_when_writing_fails(storage: CheckpointStorage) -> None:
    def fail(path: Path) -> None:
        write(path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.save(0, 1, 0, fail)
    assert files(storage) == {}
    assert storage.list() == []


def test_nothing_is_left_when_an_upload_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    storage = CheckpointStorage(f"memory://{uuid.uuid4().hex}")
    fs = fsspec.filesystem("memory")
    put, calls = fs.put_file, []

    def fail(source: str, target: str, **options: Any) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise OSError("network")
        put(source, target, **options)

    monkeypatch.setattr(type(fs), "put_file", lambda self, *a, **k: fail(*a, **k))
    with pytest.raises(OSError, match="network"):
        storage.save(0, 1, 0, write)
    assert len(calls) == 3
    assert files(storage) == {}


def test_links_and_wrong_numbers_are_refused(storage: CheckpointStorage) -> None:
    for target in ("/", "nowhere"):
        with pytest.raises(CheckpointError, match="'link' is neither"):
            storage.save(0, 1, 0, lambda path, target=target: (path / "link").symlink_to(target))  # type: ignore[misc]
    with pytest.raises(CheckpointError, match="must not be negative"):
        storage.save(-1, 1, 0, write)
    assert files(storage) == {}
    assert not list(Path(storage.root).rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s, n: change(s, f"{n}/files/model.pt", None), r"file 'model\.pt' is missing"),
        (lambda s, n: change(s, f"{n}/files/model.pt", b"short"), r"file 'model\.pt' has 5 bytes.* says 700"),
        (lambda s, n: change(s, f"{n}/files/model.pt", b"Weights" * 100), r"file 'model\.pt' does not match"),
        (lambda s, n: change(s, f"{n}/manifest.json", b"{"), r"manifest\.json cannot be read"),
        (lambda s, n: change(s, f"{n}/manifest.json", b"[]"), r"manifest\.json cannot be read"),
        (lambda s, n: change(s, f"{n}/manifest.json", None), "no checkpoint at"),
        (
            lambda s, n: change(s, f"{n}/manifest.json", b'{"format_version": 9, "files": {}}'),
            r"newer tune_platform \(format 9\)",
        ),
    ],
)
def test_damage_is_found(
    storage: CheckpointStorage, damage: Callable[[CheckpointStorage, str], None], message: str
) -> None:
    ref = storage.save(3, 1, 2, write)
    damage(storage, "trial-00003/step-00000001-a2")
    with pytest.raises(CheckpointError, match=message), storage.restore(ref):
        pytest.fail("must not be given out")


def test_sums_are_checked_only_if_asked_for(storage: CheckpointStorage) -> None:
    ref = storage.save(3, 1, 2, write)
    change(storage, "trial-00003/step-00000001-a2/files/model.pt", b"Weights" * 100)
    with storage.restore(ref, verify=False) as files:
        assert (files / "model.pt").read_bytes() == b"Weights" * 100
    change(storage, "trial-00003/step-00000001-a2/files/model.pt", b"short")
    with pytest.raises(CheckpointError, match="has 5 bytes"), storage.restore(ref, verify=False):
        pytest.fail("must not be given out")


@pytest.mark.parametrize("path", ["../../../secret", "/etc/passwd", "a/../../b", "", "a\\b"])
def test_a_manifest_leads_nowhere_else(storage: CheckpointStorage, path: str) -> None:
    ref = storage.save(0, 1, 0, write)
    manifest = {"format_version": 1, "files": {path: {"bytes": 1, "sha256": "x"}}}
    change(storage, "trial-00000/step-00000001-a0/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(CheckpointError, match="outside the checkpoint"), storage.restore(ref):
        pytest.fail("must not be given out")


@pytest.mark.parametrize(
    "uri",
    [
        "{root}",
        "{root}/",
        "{root}/../x",
        "{root}/trial-00000/../../x",
        "{root}/trial-00000",
        "/",
        "s3://b/trial-00000/step-00000001-a0",
    ],
)
def test_a_uri_leads_nowhere_else(storage: CheckpointStorage, uri: str) -> None:
    storage.save(0, 1, 0, write)
    before = files(storage)
    ref = CheckpointRef(0, 1, uri.format(root=storage.root))
    with pytest.raises(CheckpointError, match="is not a checkpoint of"):
        storage.delete(ref)
    with pytest.raises(CheckpointError, match="is not a checkpoint of"), storage.restore(ref):
        pytest.fail("must not be given out")
    assert files(storage) == before


def test_delete_may_be_repeated(storage: CheckpointStorage) -> None:
    ref = storage.save(0, 1, 0, write)
    other = storage.save(0, 2, 0, write)
    storage.delete(ref)
    storage.delete(ref)
    assert storage.list() == [other]
    with pytest.raises(CheckpointError, match="no checkpoint at"), storage.restore(ref):
        pytest.fail("must not be given out")


def test_what_others_have_written_since_a_look_is_deleted_whole(bucket: str) -> None:
    """Clients of object stores keep listings; what a worker has written after one must not stay behind."""
    import s3fs

    storage = CheckpointStorage(bucket)
    ref = storage.save(0, 1, 0, write)
    assert storage.list() == [ref]
    other = s3fs.S3FileSystem(skip_instance_cache=True)  # as that of another process
    other.pipe_file(f"{bucket}/trial-00000/step-00000001-a0/files/more", b"x")
    other.copy(f"{bucket}/trial-00000/step-00000001-a0/", f"{bucket}/trial-00000/step-00000002-a0/", recursive=True)
    storage.delete(replace(ref, step=2, uri=ref.uri.replace("00001-a0", "00002-a0")))
    storage.delete(ref)
    assert other.find(bucket) == []


def test_the_list_is_ordered_by_number(storage: CheckpointStorage) -> None:
    places = [(0, 2, 0), (0, 10, 0), (0, 10, 1), (3, 1, 0), (123456, 1, 0)]
    for place in reversed(places):
        storage.save(*place, write)
    assert [(ref.trial, ref.step) for ref in storage.list()] == [place[:2] for place in places]


def test_garbage_is_collected(storage: CheckpointStorage) -> None:
    kept, dropped = storage.save(0, 1, 0, write), storage.save(0, 2, 0, write)
    unfinished = storage.save(1, 1, 0, write)
    change(storage, "trial-00001/step-00000001-a0/manifest.json", None)
    change(storage, "experiment.db", b"not ours")
    if "://" not in storage.root:
        os.makedirs(f"{storage.root}/trial-00002/.tmp-step-00000001-a0-abc/files")  # noqa: PTH103
    assert storage.collect_garbage({kept.uri}, older_than=3600) == ()
    removed = storage.collect_garbage({kept.uri})
    assert {dropped.uri, unfinished.uri} <= set(removed)
    assert len(removed) == (2 if "://" in storage.root else 3)
    assert storage.list() == [kept]
    assert {name.split("/")[0] for name in files(storage)} == {"trial-00000", "experiment.db"}
    assert storage.collect_garbage({kept.uri}) == ()
    if "://" not in storage.root:
        assert sorted(os.listdir(storage.root)) == ["experiment.db", "trial-00000"]  # noqa: PTH208


def test_an_empty_place_is_no_error(storage: CheckpointStorage) -> None:
    assert storage.list() == []
    assert storage.collect_garbage(set()) == ()


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(CheckpointError, match="cannot lie at 'nope://x'"):
        CheckpointStorage("nope://x")


@pytest.mark.slow
@pytest.mark.parametrize("copied", [False, True])
def test_a_kill_leaves_whole_checkpoints_only(tmp_path: Path, copied: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / str(number)).write_bytes(b"x" * 5000)
    keep = "storage.save(0, step % 50, 0, write)"
    if copied:
        keep = f"draft = storage.draft(0); draft.copy(pathlib.Path({str(source)!r})); draft.keep(step % 50, 0)"
    root = tmp_path / "root"
    code = (
        "import sys, pathlib\n"
        "from tune_platform.store.checkpoints import CheckpointStorage\n"
        "storage = CheckpointStorage(sys.argv[1])\n"
        "write = lambda path: [(path / str(k)).write_bytes(b'x' * 5000) for k in range(20)]\n"
        "for step in range(10**6):\n"
        f"    {keep}\n"
        "    print(step, flush=True)\n"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1)
        process.kill()
        process.communicate()
        storage = CheckpointStorage(str(root))
        refs = storage.list()
        assert refs
        for ref in refs:
            with storage.restore(ref) as path:
                assert len(list(path.iterdir())) == 20
        storage.collect_garbage({ref.uri for ref in refs})
        assert not list(root.glob("**/.tmp-*"))


def test_the_module_is_light() -> None:
    code = (
        "import sys, tune_platform.store.checkpoints as c; c.CheckpointStorage('x')\n"
        "print([m for m in ('sqlalchemy', 'ray', 'torch', 'fsspec', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_uris_within_a_folder_are_relative_to_it(tmp_path: Path) -> None:
    old = CheckpointStorage(str(tmp_path / "old" / "checkpoints"), folder=str(tmp_path / "old"))
    ref = old.save(3, 1, 0, write)
    assert ref.uri == "checkpoints/trial-00003/step-00000001-a0"
    assert old.list() == [ref]
    (tmp_path / "old").rename(tmp_path / "new")
    new = CheckpointStorage(str(tmp_path / "new" / "checkpoints"), folder=str(tmp_path / "new"))
    for uri in (ref.uri, f"{new.root}/trial-00003/step-00000001-a0"):  # as older logs have it
        with new.restore(replace(ref, uri=uri)) as path:
            assert sorted(os.listdir(path))  # noqa: PTH208
    with pytest.raises(CheckpointError, match="is not a checkpoint of"):
        new.collect_garbage({f"{old.root}/trial-00003/step-00000001-a0"})
    assert new.list() == [ref]
    assert new.collect_garbage(()) == (ref.uri,)


def test_uris_outside_of_the_folder_are_absolute(tmp_path: Path) -> None:
    storage = CheckpointStorage(str(tmp_path / "old-checkpoints"), folder=str(tmp_path / "old"))
    assert storage.save(3, 1, 0, write).uri == f"{tmp_path}/old-checkpoints/trial-00003/step-00000001-a0"


class ClientConnectionError(Exception):
    """Called as aiohttp's is."""


@pytest.mark.parametrize(
    ("root", "error", "away"),
    [
        ("/disk", TimeoutError("no answer"), True),
        ("/disk", OSError(errno.ESTALE, "stale"), True),
        ("/disk", OSError(errno.EIO, "bad block"), False),
        ("s3://bucket", OSError(errno.EIO, "slow down"), True),
        ("s3://bucket", ClientConnectionError("refused"), True),
        ("s3://bucket", PermissionError(errno.EACCES, "denied"), False),
        ("s3://bucket", ValueError("a mistake"), False),
    ],
)
def test_no_answer_is_told_from_other_faults(root: str, error: Exception, away: bool) -> None:
    with pytest.raises(StorageAway if away else type(error)) as raised, reaching(root):
        raise error
    assert root in str(raised.value) if away else raised.value is error
