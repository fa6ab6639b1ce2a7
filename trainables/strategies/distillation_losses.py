"""How far a model's predictions are from its peers': the loss D of codistillation, in three forms.

With own logits z, a peer's logits z', p = softmax(z / t) and q = softmax(z' / t) at temperature t, C classes and
R rows (examples, or tokens), each is a mean over the rows:

    kl_fwd  t^2 KL(q || p) = t^2 sum_c q_c (log q_c - log p_c)      dD/dz = t (p - q) / R         bounded
    kl_rev  t^2 KL(p || q) = t^2 sum_c p_c (log p_c - log q_c)
    mse     mean over the classes of (z - z')^2                     dD/dz = 2 (z - z') / (C R)    unbounded

`kl_fwd` is the direction of deep mutual learning (Zhang et al. 2018), and has the gradient of cross-entropy with
the peer's probabilities as soft labels (Anil et al. 2018); `kl_rev` puts the model itself first. They are two
different losses. `mse` grows without bound with the logits, so that its weight and the learning rate act together,
and it sees a constant added to all logits, which no KL does; summed over the classes it would be C times as large.
The factor t^2 keeps the gradient's size when the temperature changes (`mse` does not depend on it).

The peers' logits are constants: no gradient goes into them. Padding must be left out of the rows as the
supervised loss leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Distance = Literal["kl_fwd", "kl_rev", "mse"]
Average = Literal["losses", "predictions"]


def kl_fwd(logits: Tensor, peer: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(peer || own) of logits of shape (rows, classes)."""
    own, other = _log_probabilities(logits, temperature), _log_probabilities(peer.detach(), temperature)
    return temperature**2 * (other.exp() * (other - own)).sum(-1).mean()


def kl_rev(logits: Tensor, peer: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(own || peer) of logits of shape (rows, classes)."""
    own, other = _log_probabilities(logits, temperature), _log_probabilities(peer.detach(), temperature)
    return temperature**2 * (own.exp() * (own - other)).sum(-1).mean()


def mse(logits: Tensor, peer: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the mean squared difference of logits of shape (rows, classes), over rows and classes."""
    return nn.functional.mse_loss(logits, peer.detach())


DISTANCES: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {"kl_fwd": kl_fwd, "kl_rev": kl_rev, "mse": mse}
AVERAGES = get_args(Average)


def distillation_loss(
    name: str, logits: Tensor, peers: Tensor, temperature: float = 1.0, average: str = "losses"
) -> Tensor:
    """Return the distance of logits (rows, classes) to those of the peers (peers, rows, classes).

    `average`: "losses", the mean of the distances to each peer, or "predictions", the distance to the peers' mean
    prediction, which is of probabilities for either KL and of logits for `mse`. For `kl_fwd` and `mse` both have the
    same gradient; for `kl_rev` they have not (KL(p || q) to each is that to the mean of the *logits*).
    Half-precision logits are compared in float32.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits, peers = logits.float(), peers.float()
    if average == "predictions":
        return DISTANCES[name](logits, mean_prediction(name, peers, temperature), temperature)
    return torch.stack([DISTANCES[name](logits, peer, temperature) for peer in peers]).mean()


def mean_prediction(name: str, predictions: Tensor, temperature: float = 1.0) -> Tensor:
    """Return logits of the mean prediction of several (models, ..., classes).

    For `mse` the mean of the logits, for either KL the mean of the probabilities.
    """
    if name == "mse":
        return predictions.mean(0)
    logs = _log_probabilities(predictions, temperature)
    return temperature * (logs.logsumexp(0) - torch.log(torch.tensor(float(len(predictions)))))


def find_logits(output: Any) -> Any:
    """Return the logits in what a model returned: itself, or what is there under the name `logits`."""
    if isinstance(output, Mapping):
        return output.get("logits")
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


def rows(logits: Tensor) -> Tensor:
    """Return logits of shape (..., classes) as (rows, classes)."""
    return logits.reshape(-1, logits.shape[-1])


def _log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    return nn.functional.log_softmax(logits / temperature, dim=-1)
