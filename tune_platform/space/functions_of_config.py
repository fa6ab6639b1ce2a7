"""Values computed from the rest of the config (`sample_from`), in an order that gives each what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.space.domains import Function
from tune_platform.space.tree import Leaf, Tree


class ConfigView(dict[str, Any]):
    """A config that may also be read as Ray Tune's older `spec`: `spec.config.lr`, `spec["config"]["lr"]`."""

    def __missing__(self, key: str) -> Any:
        if key == "config":
            return self
        raise KeyError(key)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def apply_functions(tree: Tree, values: dict[str, Any]) -> dict[str, Any]:
    """Build the config, computing each function's value; one that reads another's comes after it.

    SpecError when a function raises, or when functions wait for each other.
    """
    waiting = [leaf for leaf in tree.functions if leaf.active(values)]
    values = dict(values)
    while waiting:
        late: list[Leaf] = []
        problem: tuple[Leaf, Exception] | None = None
        for leaf in waiting:
            try:
                values[leaf.name] = _call(leaf, _view(tree.assemble(values)))
            except (KeyError, AttributeError) as error:  # it reads a value that is not there yet, perhaps
                late.append(leaf)
                problem = (leaf, error)
            except Exception as error:
                raise _failure(leaf, error) from error
        if problem and len(late) == len(waiting):
            raise _failure(*problem) from problem[1]
        waiting = late
    return tree.assemble(values)


def _call(leaf: Leaf, config: ConfigView) -> Any:
    domain = leaf.domain
    assert isinstance(domain, Function)
    return domain.func(config) if domain.takes_config else domain.func()


def _view(value: Any) -> Any:
    return ConfigView({key: _view(item) for key, item in value.items()}) if isinstance(value, Mapping) else value


def _failure(leaf: Leaf, error: Exception) -> SpecError:
    return SpecError(f"sample_from at {leaf.name!r} ({leaf.domain.to_dict()['name']}) failed: {error!r}")
