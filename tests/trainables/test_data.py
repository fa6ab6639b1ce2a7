"""Image data by name: small files in the original formats, read back, and one message for each thing that is wrong."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader
from torchvision import datasets

from tune_platform.trainables import data
from tune_platform.trainables.data import NAMES, DataError, Images, load_images
from tune_platform.trainables.pixels import TensorImages

RNG = np.random.default_rng(0)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(
    root: Path, monkeypatch: pytest.MonkeyPatch, width: int = 3072, labels: list[int] | None = None
) -> None:
    """Five batches and a test batch of 20 images, as the original pickles; their checksums count as the right ones."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        pixels = RNG.integers(0, 256, (20, width), dtype=np.uint8)
        batch = {"data": pixels, "labels": labels or [index % 10 for index in range(20)]}
        (folder / name).write_bytes(pickle.dumps(batch))
        lists["test_list" if name == "test_batch" else "train_list"].append([name, md5(folder / name)])
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {index}" for index in range(10)]}))
    for key, value in lists.items():
        monkeypatch.setattr(datasets.CIFAR10, key, value)
    meta = {**datasets.CIFAR10.meta, "md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)


def write_idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write the IDX format of MNIST: magic number with type (8: bytes) and rank, sizes, then the bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, folder: str, side: int = 28, top: int = 10) -> None:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60), ("t10k", 20)):
        write_idx(raw / f"{part}-images-idx3-ubyte", RNG.integers(0, 256, (count, side, side)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % top)


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir(exist_ok=True)
    lists = {}
    for part, count in (("train", 60), ("test", 20)):
        path = root / f"{part}_32x32.mat"
        pixels = RNG.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        savemat(path, {"X": pixels, "y": (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]})  # 10 stands for 0
        lists[part] = ["", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)


def write_folder(
    root: Path, parts: tuple[str, ...], classes: tuple[str, ...] = ("cat", "dog"), count: int = 10
) -> None:
    for part in parts:
        for index, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((6, 5, 3), 100 * index + number, dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")


def check(images: Images, sizes: tuple[int, int, int], classes: int, shape: tuple[int, int, int]) -> None:
    assert (images.classes, images.shape) == (classes, shape)
    assert tuple(images.size(split) for split in ("train", "val", "test")) == sizes
    for split in ("train", "val", "test"):
        pixels, labels = images.tensors(split)
        assert pixels.shape == (images.size(split), *shape)
        assert (pixels.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert pixels.min() >= 0
        assert pixels.max() <= 1
        image, label = getattr(images, split)[3]  # one by one it is the same
        assert torch.equal(image, pixels[3])
        assert label == labels[3]
        assert isinstance(label, int)
    pixels = images.tensors("train")[0]
    assert torch.allclose(images.mean, pixels.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(images.std, pixels.std((0, 2, 3), correction=0), atol=1e-5)


# ---------------------------------------------------------------------------------------- each dataset


def test_digits_are_sixteenths_and_in_three_parts() -> None:
    images = load_images("digits")
    check(images, (1197, 300, 300), 10, (1, 8, 8))
    everything = torch.cat([images.tensors(split)[0] for split in ("train", "val", "test")])
    assert torch.equal(everything * 16, (everything * 16).round())
    assert len(torch.unique(everything.flatten(1), dim=0)) == 1797  # no image is in two parts
    raw = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    assert torch.equal(torch.unique(everything.flatten(1), dim=0), torch.unique(raw, dim=0))


def test_the_seed_draws_the_split_of_digits() -> None:
    first, again, other = load_images("digits"), load_images("digits", seed=0), load_images("digits", seed=1)
    assert torch.equal(first.tensors("val")[0], again.tensors("val")[0])
    assert not torch.equal(first.tensors("test")[0], other.tensors("test")[0])
    assert [other.size(split) for split in ("train", "val", "test")] == [1197, 300, 300]


def test_fewer_training_images_are_stratified_and_leave_the_rest_as_it_is() -> None:
    whole, few = load_images("digits"), load_images("digits", train_size=200)
    assert few.size("train") == 200
    counts = torch.bincount(few.tensors("train")[1], minlength=10)
    assert counts.min() >= 19
    assert torch.equal(whole.tensors("val")[0], few.tensors("val")[0])
    assert torch.equal(whole.tensors("test")[0], few.tensors("test")[0])
    known = {tuple(row) for row in whole.tensors("train")[0].flatten(1).tolist()}
    assert {tuple(row) for row in few.tensors("train")[0].flatten(1).tolist()} <= known


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch)
    images = load_images("cifar10", tmp_path, val=0.2)
    check(images, (80, 20, 20), 10, (3, 32, 32))
    assert torch.bincount(images.tensors("val")[1]).tolist() == [2] * 10  # stratified
    raw = pickle.loads((tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes())
    assert torch.equal(images.tensors("test")[0], torch.tensor(raw["data"].reshape(-1, 3, 32, 32)) / 255)


def test_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for part, count in (("train", 1000), ("test", 200)):
        pixels = RNG.integers(0, 256, (count, 3072), dtype=np.uint8)
        batch = {"data": pixels, "fine_labels": [index % 100 for index in range(count)]}
        (folder / part).write_bytes(pickle.dumps(batch))
        monkeypatch.setattr(datasets.CIFAR100, f"{part}_list", [[part, md5(folder / part)]])
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class {index}" for index in range(100)]}))
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": md5(folder / "meta")})
    check(load_images("cifar100", tmp_path, val=0.2), (800, 200, 200), 100, (3, 32, 32))


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist(tmp_path: Path, name: str, folder: str) -> None:
    write_mnist(tmp_path, folder)
    check(load_images(name, tmp_path, val=0.5), (30, 30, 20), 10, (1, 28, 28))


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(tmp_path, monkeypatch)
    images = load_images("svhn", tmp_path, val=0.5)
    check(images, (30, 30, 20), 10, (3, 32, 32))
    assert images.tensors("test")[1].tolist() == [*range(1, 10), 0, *range(1, 10), 0]


def test_image_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train", "val", "test"))
    check(load_images("image_folder", tmp_path), (20, 20, 20), 2, (3, 6, 5))
    assert load_images("image_folder", tmp_path, size=4).shape == (3, 4, 4)
    assert load_images("image_folder", tmp_path, size=4).tensors("val")[0].shape == (20, 3, 4, 4)


def test_a_folder_that_was_found_good_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, ("train", "val"))
    opened: list[str] = []
    plain = data._image_size

    def noting(path: str) -> Any:
        opened.append(path)
        return plain(path)

    monkeypatch.setattr(data, "_image_size", noting)
    assert load_images("image_folder", tmp_path).shape == (3, 6, 5)
    assert len(opened) == 40
    assert load_images("image_folder", tmp_path).shape == (3, 6, 5)
    assert len(opened) == 40
    other = tmp_path / "val" / "dog" / "3.png"
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(other)
    with pytest.raises(DataError, match=r"3\.png is 9 x 9 pixels"):
        load_images("image_folder", tmp_path)
    assert load_images("image_folder", tmp_path, size=4).shape == (3, 4, 4)


def test_images_of_a_folder_are_read_in_threads_and_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, ("train", "val"))
    threads: set[str] = set()
    plain = data._read_image

    def noting(folder: Path, path: str) -> Any:
        threads.add(threading.current_thread().name)
        time.sleep(0.01)
        return plain(folder, path)

    monkeypatch.setattr(data, "_read_image", noting)
    images = load_images("image_folder", tmp_path)
    read = []
    for count in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        threads.clear()
        read.append(images.read("train", limit_gib=1e-9)[0][torch.arange(18)])
        assert len(threads) == count
    assert torch.equal(*read)


@pytest.mark.parametrize("other", ["val", "test"])
def test_image_folder_splits_validation_off(tmp_path: Path, other: str) -> None:
    write_folder(tmp_path, ("train", other))
    images = load_images("image_folder", tmp_path, val=0.2)
    check(images, (16, 4, 20), 2, (3, 6, 5))
    chosen = {tuple(image.flatten().tolist()) for image, _ in (images.val[i] for i in range(4))}
    assert not chosen & {tuple(image.flatten().tolist()) for image, _ in (images.train[i] for i in range(16))}


def test_a_data_loader_takes_it() -> None:
    pixels, labels = next(iter(DataLoader(load_images("digits").test, batch_size=7)))
    assert pixels.shape == (7, 1, 8, 8)
    assert labels.dtype == torch.int64


def test_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path, "MNIST")
    monkeypatch.setenv("TUNE_PLATFORM_DATA", str(tmp_path))
    assert load_images("mnist", val=0.5).size("test") == 20


# ---------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits"])
def test_missing_files_show_the_layout(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        load_images(name, tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{name}: ")
    assert "Expected files" in text
    assert f"  {tmp_path}/" in text
    assert "download=True" not in text


def test_a_pickle_with_a_wrong_checksum_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch)
    flag = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (flag,)

    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="missing or corrupt"):
        load_images("cifar10", tmp_path)
    assert not flag.exists()


def test_truncated_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path, "MNIST")
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="train files are missing or corrupt"):
        load_images("mnist", tmp_path)
    path.write_bytes(gzip.compress(b"not even unpacked"))
    with pytest.raises(DataError, match="train files are missing or corrupt"):
        load_images("mnist", tmp_path)
    write_svhn(tmp_path, monkeypatch)
    (tmp_path / "test_32x32.mat").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="test files are missing or corrupt"):
        load_images("svhn", tmp_path)


def test_wrong_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path, "MNIST", side=20)
    with pytest.raises(DataError, match="images are 1 x 20 x 20, expected 1 x 28 x 28"):
        load_images("mnist", tmp_path)
    write_cifar(tmp_path, monkeypatch, width=3000)
    with pytest.raises(DataError, match="cannot reshape"):
        load_images("cifar10", tmp_path)


def test_labels_out_of_range_and_of_another_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "a", "MNIST", top=12)
    with pytest.raises(DataError, match="labels go from 0 to 11, allowed are 0 to 9"):
        load_images("mnist", tmp_path / "a")
    write_cifar(tmp_path / "b", monkeypatch, labels=list(range(10)))
    with pytest.raises(DataError, match="there are 100 images and 50 labels"):
        load_images("cifar10", tmp_path / "b")


def test_bad_folders(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", ("train",))
    with pytest.raises(DataError, match=r"found train/ of train/, val/, test/"):
        load_images("image_folder", tmp_path / "a")
    write_folder(tmp_path / "b", ("train",))
    write_folder(tmp_path / "b", ("val",), classes=("cat", "doge"))
    with pytest.raises(DataError, match="different classes: dog, doge"):
        load_images("image_folder", tmp_path / "b")
    write_folder(tmp_path / "c", ("train", "val"), classes=("cat",))
    with pytest.raises(DataError, match="only one class, 'cat'"):
        load_images("image_folder", tmp_path / "c")
    write_folder(tmp_path / "d", ("train", "val"))
    (tmp_path / "d" / "train" / "dog" / "3.png").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"3\.png is not an image"):
        load_images("image_folder", tmp_path / "d")
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(tmp_path / "d" / "train" / "dog" / "3.png")
    with pytest.raises(DataError, match=r"3\.png is 9 x 9 pixels.*give a `size`"):
        load_images("image_folder", tmp_path / "d")
    assert load_images("image_folder", tmp_path / "d", size=5).shape == (3, 5, 5)
    (tmp_path / "d" / "val" / "bird").mkdir()
    with pytest.raises(DataError, match="empty class"):
        load_images("image_folder", tmp_path / "d")


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_truncated_image_is_named(tmp_path: Path, kind: str) -> None:
    """Its header is sound, so it is found when it is read."""
    write_folder(tmp_path, ("train", "test"))
    noise = Image.fromarray(RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8))
    path = tmp_path / "train" / "dog" / f"a.{kind}"
    noise.save(path)
    path.write_bytes(path.read_bytes()[:-40])
    images = load_images("image_folder", tmp_path)
    with pytest.raises(DataError, match=rf"(?s)image_folder: .*dog/a\.{kind} cannot be read.*Expected files"):
        images.tensors("train")
    images = load_images("image_folder", tmp_path, val=0.5)
    assert pickle.loads(pickle.dumps(images.test))[0][1] == 0  # workers get the loader too


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet"}, "the dataset is one of digits, .*, got 'imagenet'"),
        ({"name": "digits", "val": 1.0}, "val is a share .* got 1.0"),
        ({"name": "digits", "size": 8}, "size is .* only for image_folder, got 8 for digits"),
        ({"name": "digits", "train_size": 5}, r"train_size is between the number of classes \(10\) and 1187"),
        ({"name": "digits", "train_size": 1198}, "train_size is between"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_images(**arguments)


def test_too_few_images_to_split(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train", "test"), count=1)
    with pytest.raises(DataError, match="2 training images cannot give"):
        load_images("image_folder", tmp_path)


def test_what_does_not_fit_is_not_read() -> None:
    images = load_images("digits")
    with pytest.raises(ValueError, match=r"take 0\.0 GiB as one tensor, more than limit_gib=1e-06"):
        images.tensors("train", limit_gib=1e-6)
    with pytest.raises(ValueError, match="split is 'train', 'val' or 'test', got 'valid'"):
        images.tensors("valid")  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [1e-6, 1e-9])
@pytest.mark.parametrize("name", ["digits", "image_folder"])
def test_what_does_not_fit_is_read_when_it_is_looked_at(tmp_path: Path, name: str, limit: float) -> None:
    """As bytes in memory (of a folder where even those fit), else from the files."""
    write_folder(tmp_path, ("train", "val", "test"))
    images = load_images(name, tmp_path, train_size=12 if name == "image_folder" else None)
    for split in ("train", "val", "test"):
        pixels, labels = images.tensors(split)
        stored, answers = images.read(split, limit_gib=limit)
        assert not isinstance(stored, torch.Tensor)
        assert torch.equal(answers, labels)
        assert len(stored) == len(labels)
        chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:5]
        for which in (chosen, slice(2, 6), slice(3, 10_000)):
            assert torch.equal(stored[which], pixels[which])
    whole, _ = images.read("train")
    assert isinstance(whole, torch.Tensor)


def test_bytes_take_a_quarter_of_the_floats(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train", "test"))
    images = load_images("image_folder", tmp_path)
    floats = images.tensors("test")[0]
    limit = floats.numel() / 2**30  # what the bytes take
    stored, _ = images.read("test", limit_gib=limit)
    for path in tmp_path.glob("test/*/*.png"):
        path.unlink()  # they are in memory
    assert torch.equal(stored[:], floats)
    stored, _ = images.read("train", limit_gib=0)
    for path in tmp_path.glob("train/*/*.png"):
        path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        stored[:1]


def test_pixels_out_of_range_are_told() -> None:
    from tune_platform.trainables import data

    with pytest.raises(DataError, match="pixels go from 0 to 17, not 0 to 16"):
        data._checked("digits", Path("x"), torch.full((2, 1, 8, 8), 17.0).tril(), torch.zeros(2), 16.0, 10, (1, 8, 8))
    assert isinstance(load_images("digits").train, TensorImages)
