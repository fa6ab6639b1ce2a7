"""From a config back to the values of its parameters: start points, and configs that others chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.space.domains import Function
from tune_platform.space.tree import Fixed, Group, Guard, Items, Leaf, Node, Tree, parents
from tune_platform.space.values import number_from_text, same


def match(tree: Tree, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each parameter that the config (or a part of one) sets, branches by number.

    SpecError for a name that the space does not have, a value outside its domain, and a
    parameter whose condition the other values rule out.
    """
    if not isinstance(config, Mapping):
        raise SpecError(f"a config must be a dict, seen {config!r}")
    values: dict[str, Any] = {}
    _match(tree.root, _nest(config, tree.root), "", values)
    for leaf in tree.leaves:
        if leaf.name in values:
            for guard in leaf.guards:
                if _known(guard, values) and not guard.met(values):
                    raise SpecError(f"{leaf.name!r} exists only when {leaf.condition}")
    return values


def _nest(config: Mapping[str, Any], root: Group) -> dict[str, Any]:
    """Read flat names as nested ones: {"optimizer/lr": 1} is {"optimizer": {"lr": 1}}."""
    nested: dict[str, Any] = {}
    for key, value in config.items():
        if key in root.parts or "/" not in str(key):
            nested[key] = {**nested[key], **value} if _both_dicts(nested.get(key), value) else value
            continue
        *above, last = str(key).split("/")
        level = nested
        for part in above:
            inner = level.get(part, {})
            if not isinstance(inner, Mapping):
                raise SpecError(f"{key!r} is given, and {part!r} has a value of its own: {inner!r}")
            level[part] = dict(inner)
            level = level[part]
        level[last] = value
    return nested


def _both_dicts(a: Any, b: Any) -> bool:
    return isinstance(a, Mapping) and isinstance(b, Mapping)


def _match(node: Node, value: Any, name: str, values: dict[str, Any]) -> None:
    match node:
        case Group():
            _match_group(node, value, name, values)
        case Items():
            if not isinstance(value, list | tuple) or len(value) != len(node.nodes):
                raise SpecError(f"{name!r} must be a list of {len(node.nodes)} values, seen {value!r}")
            for i, (inner, item) in enumerate(zip(node.nodes, value, strict=True)):
                _match(inner, item, f"{name}/{i}", values)
        case Fixed():
            if not same(node.value, value):
                raise SpecError(f"{name!r} is always {node.value!r}, seen {value!r}")
        case Leaf() if node.options:
            number, inside = _option(node, value, name)
            values[node.name] = number
            values.update(inside)
        case Leaf() if not isinstance(node.domain, Function):
            if not node.domain.contains(value):
                advice = number_from_text(value) if isinstance(value, str) else ""
                raise SpecError(f"{name}={value!r} is not in {node.domain}{advice}")
            values[node.name] = node.domain.cast(value)


def _match_group(node: Group, value: Any, name: str, values: dict[str, Any]) -> None:
    if not isinstance(value, Mapping):
        raise SpecError(f"{name!r} must be a dict, seen {value!r}")
    for key, item in value.items():
        place = f"{name}/{key}" if name else str(key)
        if key not in node.parts:
            hint = did_you_mean(str(key), map(str, node.parts))
            raise SpecError(f"there is no parameter {place!r} in the space{hint}")
        _match(node.parts[key][0], item, place, values)


def _option(leaf: Leaf, value: Any, name: str) -> tuple[int, dict[str, Any]]:
    """Find the option that the value comes from: a complete one if there is, else the first that fits."""
    fits: list[tuple[bool, int, dict[str, Any]]] = []
    problems: list[str] = []
    for number, option in enumerate(leaf.options):
        inside: dict[str, Any] = {}
        try:
            _match(option, value, name, inside)
        except SpecError as error:
            problems.append(str(error))
        else:
            missing = isinstance(option, Group) and bool(option.parts.keys() - set(value))
            fits.append((missing, number, inside))
    if not fits:
        raise SpecError(f"{name}={value!r} fits none of its {len(leaf.options)} options: " + "; ".join(problems))
    _, number, inside = min(fits, key=lambda fit: fit[:2])
    return number, inside


def _known(guard: Guard, values: Mapping[str, Any]) -> bool:
    """Tell whether everything that the guard reads was given, so that it can be judged."""
    for target in guard.targets:
        needed = [target] if isinstance(target, Leaf) else list(parents(target))
        if any(leaf.name not in values for leaf in needed):
            return False
    return True
