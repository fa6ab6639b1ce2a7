"""Vectors in fewer bits: how far they are from what was sent, and that all workers get the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainables.strategies.toys import Held
from tune_platform.distributed import Gang, LocalGroup
from tune_platform.distributed.member import Place
from tune_platform.trainables.strategies.compression import (
    BLOCK,
    CODECS,
    compressed_bytes,
    compressed_mean,
    decode,
    encode,
    encoded_size,
)


class Sender:
    """A worker that has a vector of its own."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def vector(self, numel: int) -> Tensor:
        return torch.randn(numel, generator=torch.Generator().manual_seed(self.place.comm.rank))

    def mean(self, numel: int, codec: str) -> tuple[Tensor, Tensor, Tensor, float]:
        comm = self.place.comm
        before = comm.traffic.total
        mean, lost = compressed_mean(comm, self.vector(numel), codec)
        return self.vector(numel), mean, lost, comm.traffic.total - before


@pytest.fixture(scope="module")
def processes() -> Iterator[Gang]:
    gang = Gang("processes", 2)
    yield gang
    gang.close()


@pytest.mark.parametrize("shape", [(1,), (5,), (BLOCK,), (3, BLOCK + 1), (2, 4000)])
@pytest.mark.parametrize("codec", CODECS)
def test_round_trip(shape: tuple[int, ...], codec: str) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    data = encode(x, codec)
    assert data.dtype == torch.uint8
    assert data.shape == (*shape[:-1], encoded_size(shape[-1], codec))
    back = decode(data, shape[-1], codec)
    limit = x.abs() / 256 if codec == "bf16" else x.abs().max() / 127 * 0.5001
    assert bool(((back - x).abs() <= limit).all())
    assert torch.equal(decode(encode(back, codec), shape[-1], codec), back) or codec == "int8"


@pytest.mark.parametrize("codec", CODECS)
def test_zeros_and_undefined_values(codec: str) -> None:
    assert torch.equal(decode(encode(torch.zeros(7), codec), 7, codec), torch.zeros(7))
    x = torch.ones(2 * BLOCK)
    x[3], x[4] = float("nan"), float("inf")
    back = decode(encode(x, codec), len(x), codec)
    assert back[3].isnan()
    assert not back[4].isfinite()
    assert torch.allclose(back[BLOCK:], torch.ones(BLOCK))


def ask(gang: Gang, numel: int, codec: str) -> list[Any]:
    group = gang.group()
    factory: Callable[[Place], Sender] = Sender
    assert all(answer.ok for answer in group.open("compression", factory))
    answers = group.call("compression", "mean", numel, codec)
    group.drop("compression")
    assert all(answer.ok for answer in answers), answers
    return [answer.value for answer in answers]


@pytest.mark.parametrize(("workers", "numel"), [(1, 10), (2, 9), (3, 5000), (4, 4096)])
@pytest.mark.parametrize("codec", CODECS)
def test_all_get_the_same_mean_and_bytes_are_those_of_the_formula(workers: int, numel: int, codec: str) -> None:
    check(ask(Held(LocalGroup(workers)), numel, codec), numel, codec)


@pytest.mark.parametrize("codec", CODECS)
def test_between_processes(processes: Gang, codec: str) -> None:
    found = ask(processes, 5000, codec)
    check(found, 5000, codec)
    assert torch.equal(found[0][1], ask(Held(LocalGroup(2)), 5000, codec)[0][1])


def check(found: list[Any], numel: int, codec: str) -> None:
    vectors, means, lost, sent = zip(*found, strict=True)
    assert all(torch.equal(means[0], mean) for mean in means)
    exact = torch.stack(vectors).mean(0)
    reach = torch.stack(vectors).abs().max()
    unit = reach / 256 if codec == "bf16" else reach / 127 / 2
    assert bool(((means[0] - exact).abs() <= 2.01 * unit).all())
    # What is lost on the way there is known to the sender; what is left is the rounding of the mean alone.
    there = exact - torch.stack(lost).mean(0)
    assert bool(((means[0] - there).abs() <= 1.01 * unit).all())
    assert sum(sent) == pytest.approx(compressed_bytes(numel, len(found), codec))


def test_bytes_are_a_half_and_a_quarter_of_an_all_reduce() -> None:
    for workers in (2, 8, 64):
        all_reduce = 8e6 * (workers - 1)
        assert compressed_bytes(10**6, workers, "bf16") / all_reduce == pytest.approx(0.5, rel=1e-3)
        assert compressed_bytes(10**6, workers, "int8") / all_reduce == pytest.approx(0.25, rel=1e-2)
