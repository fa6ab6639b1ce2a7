"""Classifiers by name: torchvision's, or what a function of your own returns."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.trainables.any_data import imported

#: Those that return more than logits in training, unless they are told not to.
_WITH_AUXILIARY = ("googlenet", "inception_v3")


def named_model(name: str, classes: int, own: Sequence[str]) -> nn.Module:
    """Return a torchvision classifier with fresh weights, or what "module:function" returns for `num_classes=`.

    Raises SpecError for a name that there is not; `own` are those that the trainable knows beside these.
    """
    if ":" in name:
        made: nn.Module = imported(name, "model")(num_classes=classes)
        if not isinstance(made, nn.Module):
            raise SpecError(f"model: {name} returns {type(made).__name__}, not a torch.nn.Module")
        return made
    import torchvision  # takes seconds, which the other models need not spend

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        hint = did_you_mean(name, [*own, *known])
        raise SpecError(
            f"model: {', '.join(map(repr, own))}, a torchvision classifier or 'module:function', got {name!r}{hint}"
        )
    options = {"aux_logits": False} if name in _WITH_AUXILIARY else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    return model
