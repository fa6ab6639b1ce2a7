from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from tune_platform.backends._memory import FilesCopy, Memory, StateCopy
from tune_platform.protocol.reports import CheckpointRef


def ref(trial: int, step: int = 1) -> CheckpointRef:
    return CheckpointRef(trial, step, f"{trial}/{step}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_copy_of_a_state_is_its_own(dtype: torch.dtype) -> None:
    """What trains on changes neither the copy nor what was loaded from it before."""
    weight = torch.ones(3, 2).to(dtype)
    layer = torch.nn.Linear(2, 1)
    copy = StateCopy.of({"weight": weight.T, "layer": layer.state_dict(), "none": torch.zeros(0), "step": 7})
    weight.zero_()
    first, second = copy.load(), copy.load()
    first["weight"].zero_()
    assert torch.equal(second["weight"], torch.ones(2, 3).to(dtype))
    assert second["weight"].dtype is dtype
    assert torch.equal(second["layer"]["weight"], layer.weight)
    assert (second["step"], tuple(second["none"].shape)) == (7, (0,))


def test_copies_travel_with_their_buffers_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(bytes(1000))
    for copy in (StateCopy.of({"w": torch.zeros(1000)}), FilesCopy.of(tmp_path)):
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(copy, protocol=5, buffer_callback=buffers.append)
        assert len(head) < 500
        again = pickle.loads(head, buffers=[bytes(buffer.raw()) for buffer in buffers])
        assert again.bytes == copy.bytes >= 1000
    with again.opened() as directory:
        assert (directory / "a" / "b.bin").read_bytes() == bytes(1000)


def test_memory_is_bounded_and_drops_the_oldest_that_are_written() -> None:
    memory = Memory(2500)

    def put(trial: int, step: int, size: int = 1000, *, written: bool = True) -> bool:
        kept = memory.put(ref(trial, step), FilesCopy({"x": bytes(size)}))
        if written:
            memory.release(ref(trial, step))
        return kept

    assert all(put(trial, 1) for trial in range(3))
    assert [memory.get(ref(trial)) is not None for trial in range(3)] == [False, True, True]
    assert put(1, 2)  # a newer one takes the place of its trial's
    assert memory.get(ref(1)) is None
    assert memory.get(ref(1, 2)) is not None
    assert memory.get(ref(2)) is not None
    assert not put(3, 1, 3000), "beyond the limit"
    assert memory.get(ref(2)) is not None, "what does not fit drops nothing"
    assert put(2, 2, 1200, written=False)
    assert put(3, 1, written=False), "in place of 1, which is written"
    assert not put(1, 3, 600), "nothing may be dropped for it"
    memory.release(ref(2, 2))
    assert put(1, 3, 600)
    assert (memory.get(ref(2, 2)), memory.get(ref(3)) is not None) == (None, True)
