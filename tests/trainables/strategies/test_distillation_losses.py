import pytest
import torch
from torch import Tensor, nn

from tune_platform.trainables.strategies.distillation_losses import DISTANCES, distillation_loss, mean_prediction, rows


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) * 7 + shape[0]), dtype=torch.float64)


def gradient(name: str, own: Tensor, peers: Tensor, temperature: float = 1.0, average: str = "losses") -> Tensor:
    own = own.clone().requires_grad_()
    (found,) = torch.autograd.grad(distillation_loss(name, own, peers, temperature, average), own)
    return found


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("average", ["losses", "predictions"])
@pytest.mark.parametrize("name", list(DISTANCES))
def test_gradient_is_that_of_finite_differences(name: str, average: str, temperature: float) -> None:
    own, peers = draw(5, 4), draw(2, 5, 4)
    found, step = gradient(name, own, peers, temperature, average), 1e-6
    for index in range(own.numel()):
        shift = torch.zeros(own.numel(), dtype=torch.float64)
        shift[index] = step
        up, down = (distillation_loss(name, own + s * shift.view_as(own), peers, temperature, average) for s in (1, -1))
        assert float(found.view(-1)[index]) == pytest.approx(float(up - down) / (2 * step), abs=1e-8)


def test_gradients_are_the_published_ones() -> None:
    own, peer = draw(6, 5), draw(2, 6, 5)[:1]
    p, q = own.softmax(-1), peer[0].softmax(-1)
    torch.testing.assert_close(gradient("kl_fwd", own, peer), (p - q) / 6)
    torch.testing.assert_close(gradient("mse", own, peer), 2 * (own - peer[0]) / (5 * 6))
    soft = own.clone().requires_grad_()
    nn.functional.cross_entropy(soft, q).backward()  # type: ignore[no-untyped-call]
    assert soft.grad is not None
    torch.testing.assert_close(gradient("kl_fwd", own, peer), soft.grad)


def test_directions_are_torchs_kl() -> None:
    own, peer = draw(6, 5), draw(2, 6, 5)[0]
    p, q = own.log_softmax(-1), peer.log_softmax(-1)
    fwd = nn.functional.kl_div(p, q, reduction="batchmean", log_target=True)
    rev = nn.functional.kl_div(q, p, reduction="batchmean", log_target=True)
    torch.testing.assert_close(distillation_loss("kl_fwd", own, peer[None]), fwd)
    torch.testing.assert_close(distillation_loss("kl_rev", own, peer[None]), rev)
    assert abs(float(fwd - rev)) > 1e-3


def test_only_mse_sees_a_shift_of_the_logits() -> None:
    own, peers = draw(6, 5), draw(2, 6, 5)
    for name in DISTANCES:
        shifted = distillation_loss(name, own + 3.0, peers - 1.0)
        same = torch.allclose(shifted, distillation_loss(name, own, peers), rtol=1e-10)
        assert same == (name != "mse")


def test_kl_is_bounded_in_its_gradient_and_mse_is_not() -> None:
    own, peers = draw(6, 5), 1e4 * draw(2, 6, 5)
    assert float(gradient("kl_fwd", own, peers).abs().max()) <= 1 / 6
    assert float(gradient("mse", own, peers).abs().max()) > 100


def test_temperature_keeps_the_size_of_the_gradient() -> None:
    own, peers = draw(6, 5), draw(2, 6, 5)
    sizes = [float(gradient("kl_fwd", own, peers, temperature).norm()) for temperature in (10.0, 100.0)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
    torch.testing.assert_close(gradient("mse", own, peers, 5.0), gradient("mse", own, peers))


def test_mean_of_predictions_has_the_gradient_of_the_mean_loss_where_the_theory_says_so() -> None:
    own, peers = draw(6, 5), draw(3, 6, 5)
    for name in DISTANCES:
        of_losses, of_predictions = (gradient(name, own, peers, average=kind) for kind in ("losses", "predictions"))
        assert torch.allclose(of_losses, of_predictions, atol=1e-14) == (name != "kl_rev"), name
    to_mean_logits = gradient("kl_rev", own, peers.mean(0, keepdim=True))
    torch.testing.assert_close(gradient("kl_rev", own, peers), to_mean_logits)


def test_mean_prediction_is_of_probabilities() -> None:
    found = mean_prediction("kl_fwd", draw(3, 6, 5))
    torch.testing.assert_close(found.softmax(-1), draw(3, 6, 5).softmax(-1).mean(0))


def test_peers_get_no_gradient() -> None:
    own, peers = draw(6, 5).requires_grad_(), draw(2, 6, 5).requires_grad_()
    for name in DISTANCES:
        distillation_loss(name, own, peers).backward()  # type: ignore[no-untyped-call]
    assert peers.grad is None


def test_weight_does_not_grow_with_peers_or_rows() -> None:
    own, peer = draw(6, 5), draw(2, 6, 5)[:1]
    for name in DISTANCES:
        one = distillation_loss(name, own, peer)
        torch.testing.assert_close(distillation_loss(name, own, peer.repeat(4, 1, 1)), one)
        torch.testing.assert_close(distillation_loss(name, own.repeat(3, 1), peer.repeat(1, 3, 1)), one)


def test_half_precision_is_compared_in_single() -> None:
    own, peers = draw(6, 5).bfloat16(), draw(2, 6, 5).bfloat16()
    assert distillation_loss("kl_fwd", own, peers).dtype == torch.float32


def test_tokens_become_rows() -> None:
    assert rows(torch.zeros(2, 7, 5)).shape == (14, 5)
