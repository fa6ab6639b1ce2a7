"""Weights from a local file: what fits is taken, what does not is named."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from tune_platform.errors import SpecError
from tune_platform.trainable import TrialContext
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.weights import load_weights, read_weights


def network(classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, classes))


def test_what_does_not_fit_stays_and_is_listed(tmp_path: Path) -> None:
    source, target = network(5, 0), network(7, 1)
    state = {f"module.{name}": value for name, value in source.state_dict().items()} | {"extra": torch.zeros(2)}
    del state["module.0.bias"]
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pth")
    before = {name: value.clone() for name, value in target.state_dict().items()}
    fit = load_weights(target, tmp_path / "w.pth")
    assert fit.taken == ["0.weight"]
    assert fit.missing == ["0.bias"]
    assert fit.unknown == ["extra"]
    assert fit.reshaped == ["2.weight", "2.bias"]
    assert str(fit) == (
        "1 tensors were taken; 1 not in the file: 0.bias; 1 not in the model: extra; "
        "2 of another shape: 2.weight, 2.bias"
    )
    after = target.state_dict()
    assert torch.equal(after["0.weight"], source.state_dict()["0.weight"])
    assert all(torch.equal(after[name], before[name]) for name in before if name != "0.weight")


def test_safetensors_are_read(tmp_path: Path) -> None:
    values = {"0.weight": torch.randn(3, 4), "0.bias": torch.randn(3).bfloat16()}
    header, offset, data = {"__metadata__": {"format": "pt"}}, 0, b""
    for name, value in values.items():
        raw = value.contiguous().view(torch.uint8).numpy().tobytes()
        kind = {torch.float32: "F32", torch.bfloat16: "BF16"}[value.dtype]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [offset, offset + len(raw)]}  # type: ignore[dict-item]
        offset, data = offset + len(raw), data + raw
    text = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    found = read_weights(path)
    assert found.keys() == values.keys()
    assert all(torch.equal(found[name], values[name]) for name in values)
    path.write_bytes(b"no such thing")
    with pytest.raises(SpecError, match="is not a safetensors file"):
        read_weights(path)


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no file"):
        read_weights(tmp_path / "nowhere.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(SpecError, match="not a file of tensors"):
        read_weights(tmp_path / "text.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(SpecError, match="holds no state dict but a list"):
        read_weights(tmp_path / "list.pt")
    torch.save(nn.Linear(9, 9).state_dict(), tmp_path / "other.pt")
    with pytest.raises(SpecError, match="none of the 2 tensors"):
        load_weights(network(5, 0), tmp_path / "other.pt")


def test_a_training_begins_with_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def recipe(**config: object) -> ClassificationTrainable:
        made = ClassificationTrainable(TrialContext(seed=1))
        made.config = {"task": "synthetic", "examples": 32, "width": 8, **config}
        return made

    torch.save(recipe(classes=10).build_model({}).state_dict(), tmp_path / "w.pt")
    with caplog.at_level(logging.INFO):
        model = recipe(classes=4, weights=str(tmp_path / "w.pt")).build_model({})
    saved = torch.load(tmp_path / "w.pt", weights_only=True)
    assert torch.equal(model.state_dict()["1.weight"], saved["1.weight"])
    assert "2 of another shape: 4.weight, 4.bias" in caplog.text
