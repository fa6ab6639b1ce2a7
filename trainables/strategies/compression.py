"""The mean of vectors that travel in fewer bits: half the bytes of single precision ("bf16"), or a quarter ("int8").

Every worker owns a part of the vector. All send their values of a part to its owner, which adds them up in single
precision and sends the mean back to all: an all-reduce in two halves, both compressed, so that all decode the same
bytes and get the same mean bit for bit. Each worker keeps what the rounding took from what it sent and adds it to what
it sends the next time (error feedback; Seide et al. 2014, "1-Bit Stochastic Gradient Descent", section 2).

"int8" rounds to multiples of the largest magnitude in a block of 1024 over 127; one scale goes with each block.
Vectors with infinite or undefined values stay such: a block with one is undefined as a whole.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from tune_platform.distributed.communicator import Communicator

#: Values that share a scale.
BLOCK = 1024
CODECS = ("bf16", "int8")


def encode(vector: Tensor, codec: str) -> Tensor:
    """Return the last dimension as bytes (uint8): 2 a value, or 1 and a scale of 4 bytes for each block."""
    if codec == "bf16":
        return vector.to(torch.bfloat16).contiguous().view(torch.uint8)
    blocks = _blocks(vector.float())
    scales = blocks.abs().amax(-1) / 127
    steps = (blocks / scales.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)).round()
    values = steps.nan_to_num(0, 0, 0).clamp(-127, 127).to(torch.int8).flatten(-2)[..., : vector.shape[-1]]
    return torch.cat([scales.contiguous().view(torch.uint8), values.contiguous().view(torch.uint8)], -1)


def decode(data: Tensor, length: int, codec: str) -> Tensor:
    """Return the values, in single precision, of what `encode` made of `length` of them."""
    if codec == "bf16":
        return data.view(torch.bfloat16).float()
    head = data.shape[-1] - length
    scales, values = data[..., :head].contiguous().view(torch.float32), data[..., head:].contiguous().view(torch.int8)
    scaled = _blocks(values.float()) * scales.unsqueeze(-1)
    return scaled.flatten(-2)[..., :length]


def _blocks(vector: Tensor) -> Tensor:
    """Return the last dimension in blocks, filled up with zeros."""
    padded = functional.pad(vector, (0, -vector.shape[-1] % BLOCK))
    return padded.view(*vector.shape[:-1], -1, BLOCK)


def encoded_size(length: int, codec: str) -> int:
    """Return the bytes of `length` values."""
    return 2 * length if codec == "bf16" else length + 4 * math.ceil(length / BLOCK)


def compressed_mean(comm: Communicator, vector: Tensor, codec: str) -> tuple[Tensor, Tensor]:
    """Return the mean over the workers, the same on all, and what the rounding took from this worker's vector."""
    if comm.size == 1:
        return vector, torch.zeros_like(vector)
    part = math.ceil(vector.numel() / comm.size)
    parts = functional.pad(vector.float(), (0, part * comm.size - vector.numel())).view(comm.size, part)
    sent = encode(parts, codec)
    lost = (parts - decode(sent, part, codec)).flatten()[: vector.numel()]
    owned = decode(comm.all_to_all(sent), part, codec).mean(0)
    mean = decode(comm.all_gather(encode(owned, codec)), part, codec).flatten()[: vector.numel()]
    return mean.to(vector.dtype), lost.to(vector.dtype)


def compressed_bytes(numel: int, workers: int, codec: str) -> float:
    """Return the bytes over all links of one `compressed_mean`."""
    return 2.0 * workers * (workers - 1) * encoded_size(math.ceil(numel / workers), codec)
