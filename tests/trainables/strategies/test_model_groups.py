import pytest
import torch
from torch import nn

from tune_platform.trainables.strategies.model_groups import Seat, admit, columns, groups, leaders, spread
from tune_platform.trainables.strategies.peer_copies import PeerCopies, pack, packed_size, unpack


def test_neighbours_train_the_same_model() -> None:
    assert spread([0, 1], 4) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert spread([0, 2], 3) == [(0, 0), (0, 1), (2, 0)]
    seats = spread(range(3), 6)
    assert groups(seats) == {0: [0, 1], 1: [2, 3], 2: [4, 5]}
    assert leaders(seats) == [[0, 2, 4], [1], [3], [5]]
    assert columns(seats) == [[0, 2, 4], [1, 3, 5]]


def test_who_joins_takes_the_place_that_is_missing() -> None:
    seats = [Seat(0, 0), Seat(0, 1), Seat(1, 1), None]
    assert admit(seats, [0, 1], 2)[3] == Seat(1, 0)
    assert admit([Seat(0, 0), None], [0, 1], 1)[1] == Seat(1, 0)  # a lost model begins again
    assert admit([Seat(0, 0), None], [0], 1)[1] == Seat(0, 0)  # one of which there is no copy does not
    assert columns([Seat(0, 0), Seat(0, 0), Seat(1, 0)]) == [[0, 2], [1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_packing_is_exact_for_every_type(dtype: torch.dtype) -> None:
    def build() -> nn.Module:
        last = nn.Linear(5, 3, bias=False)
        nn.init.constant_(last.weight[0], float("nan"))
        model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), last)
        model.register_buffer("mask", torch.rand(3) > 0.5)
        model.register_buffer("ids", torch.arange(3, dtype=torch.int16), persistent=False)
        return model.to(dtype)

    model, other = build(), build()
    vector = pack(model)
    assert vector.dtype == torch.uint8
    assert len(vector) == packed_size(model) == packed_size(other)
    unpack(vector, other)
    assert torch.equal(pack(other), vector)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), other.state_dict()[name].nan_to_num()), name


def test_tied_weights_are_sent_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert packed_size(model) == 4 * (16 + 4 + 4)


def test_copies_are_frozen() -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))

    model, x = build(), torch.randn(4, 3)
    model(x)  # its running statistics move
    running, batch = PeerCopies(build), PeerCopies(build, batch_statistics=True)
    for copies in (running, batch):
        copies.put(1, pack(model))
        generator = torch.get_rng_state()
        copies[1](x)
        assert torch.equal(torch.get_rng_state(), generator)
        assert torch.equal(pack(copies[1]), pack(model))
        assert not any(p.requires_grad for p in copies[1].parameters())
    torch.testing.assert_close(running[1](x), model.eval()(x))
    hidden = model[0](x)
    torch.testing.assert_close(batch[1](x), (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt())
