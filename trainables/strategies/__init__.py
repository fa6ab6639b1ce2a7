"""How the workers of a gang agree, a file for each method; `STRATEGIES` has them by the name a config chooses."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

from tune_platform.distributed.strategy import Strategy

_HOMES = {
    "independent": "tune_platform.distributed.strategy:Strategy",
    "all_reduce": "tune_platform.trainables.strategies.all_reduce:AllReduce",
    "fully_sharded": "tune_platform.trainables.strategies.fully_sharded:FullySharded",
    "local_sgd": "tune_platform.trainables.strategies.local_sgd:LocalSGD",
    "post_local_sgd": "tune_platform.trainables.strategies.post_local_sgd:PostLocalSGD",
    "slowmo": "tune_platform.trainables.strategies.slowmo:SlowMo",
    "diloco": "tune_platform.trainables.strategies.diloco:DiLoCo",
    "easgd": "tune_platform.trainables.strategies.easgd:EASGD",
    "eamsgd": "tune_platform.trainables.strategies.eamsgd:EAMSGD",
    "downpour": "tune_platform.trainables.strategies.downpour:Downpour",
    "lsgd": "tune_platform.trainables.strategies.lsgd:LSGD",
    "codistillation": "tune_platform.trainables.strategies.codistillation:Codistillation",
}


class _Strategies(Mapping[str, type[Strategy]]):
    """Imports a strategy when it is first asked for."""

    def __getitem__(self, name: str) -> type[Strategy]:
        module, _, found = _HOMES[name].partition(":")
        strategy: type[Strategy] = getattr(importlib.import_module(module), found)
        return strategy

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


STRATEGIES: Mapping[str, type[Strategy]] = _Strategies()
