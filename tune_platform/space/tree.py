"""A param_space, read once into a tree: what is fixed, what is a parameter, and when each one exists.

A *leaf* is one parameter. Its *guards* say when it exists: a branch of a choice was taken, or a `when` holds.
Leaves are kept in an order in which parents come before children, so that one pass decides all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.protocol.configs import shown
from tune_platform.space.domains import Categorical, Constant, Domain, Function, Grid
from tune_platform.space.ray_domains import from_ray, is_ray_domain
from tune_platform.space.values import same, unboxed

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class When:
    """A part of a space that exists only while other parameters have certain values. Made by `when`."""

    value: Any
    conditions: Mapping[str, tuple[Any, ...]]


def when(value: Any, conditions: Mapping[str, Any]) -> When:
    """Return `value` (a domain, or a dict of them) as a part that exists only under all `conditions`.

    `when(uniform(0, 1), {"optimizer": ["sgd", "rmsprop"]})`: a list means any of its values. A name is looked
    up beside the part first, then from the top of the space, with "/" between the levels.
    """
    if not isinstance(conditions, Mapping) or not conditions:
        raise SpecError(f"when(..., {conditions!r}): a dict of parameter names and values is needed")
    return When(value, {str(k): tuple(v) if isinstance(v, list | tuple) else (v,) for k, v in conditions.items()})


@dataclass(slots=True, eq=False)
class Guard:
    """Holds when one of the `targets` exists and has one of the `allowed` values."""

    text: str
    allowed: tuple[Any, ...]
    targets: list[Leaf | Fixed]
    index: bool = False  # compare the number of a branch, not its value

    def met(self, values: Mapping[str, Any]) -> bool:
        """Tell whether the guard holds, given the values of the parameters that exist so far."""
        for target in self.targets:
            if isinstance(target, Fixed):
                exists, value = target.active(values), target.value
            else:
                exists = target.name in values
                value = values[target.name] if exists and self.index else exists and target.seen(values[target.name])
            if exists and any(same(value, allowed) for allowed in self.allowed):
                return True
        return False


@dataclass(slots=True, eq=False)
class Fixed:
    """A plain value of the space."""

    value: Any
    path: Path
    guards: tuple[Guard, ...]

    def active(self, values: Mapping[str, Any]) -> bool:
        """Tell whether the part exists, given the values of the parameters that exist so far."""
        return all(guard.met(values) for guard in self.guards)


@dataclass(slots=True, eq=False)
class Leaf:
    """One parameter. With `options` it is a choice among subtrees, and its value is the option's number."""

    name: str
    path: Path
    domain: Domain
    guards: tuple[Guard, ...]
    options: tuple[Node, ...] = ()
    branches: tuple[tuple[str, int], ...] = ()  # the choices it lies in, with the numbers of their options

    def active(self, values: Mapping[str, Any]) -> bool:
        """Tell whether the parameter exists, given the values of the parameters before it."""
        return all(guard.met(values) for guard in self.guards)

    def seen(self, value: Any) -> Any:
        """Return a picked value as conditions compare it: of a choice among subtrees, the plain option."""
        if not self.options:
            return value
        option = self.options[value]
        return option.value if isinstance(option, Fixed) else _Subtree

    @property
    def condition(self) -> str | None:
        """When the parameter exists, in words; None when always."""
        return " and ".join(guard.text for guard in self.guards) or None


class _Subtree:
    """Stands for an option that no condition can name."""


@dataclass(slots=True, eq=False)
class Items:
    """A list or a tuple."""

    kind: type
    nodes: list[Node]


@dataclass(slots=True, eq=False)
class Group:
    """A dict; `guards` of a part say when its key is there."""

    parts: dict[Any, tuple[Node, tuple[Guard, ...]]]


Node = Leaf | Fixed | Items | Group


@dataclass(slots=True)
class Tree:
    """The whole space: its root, its parameters in order, and every name that conditions may use."""

    root: Group
    leaves: list[Leaf] = field(default_factory=list)
    functions: list[Leaf] = field(default_factory=list)
    paths: dict[Path, list[Leaf | Fixed | None]] = field(default_factory=dict)

    def assemble(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Build the config of these values; a function's value may still be missing."""
        config: dict[str, Any] = _assemble(self.root, values)
        return config


def _assemble(node: Node, values: Mapping[str, Any]) -> Any:
    match node:
        case Leaf():
            value = values[node.name]
            return _assemble(node.options[value], values) if node.options else value
        case Fixed():
            return node.value
        case Items():
            return node.kind(_assemble(item, values) for item in node.nodes if _exists(item, values))
    return {
        key: _assemble(part, values)
        for key, (part, guards) in node.parts.items()
        if _exists(part, values) and all(guard.met(values) for guard in guards)
    }


def _exists(node: Node, values: Mapping[str, Any]) -> bool:
    return not isinstance(node, Leaf) or node.name in values


def read_tree(param_space: Mapping[str, Any]) -> Tree:
    """Read a param_space. SpecError when a name, a condition or a domain in it is wrong."""
    if not isinstance(param_space, Mapping):
        raise SpecError(f"the space must be a dict or a function of a trial, seen {param_space!r}")
    reader = _Reader()
    root = reader.read(param_space, (), (), ())
    assert isinstance(root, Group)
    reader.name_leaves()
    reader.resolve()
    functions = [leaf for leaf in reader.leaves if isinstance(leaf.domain, Function)]
    return Tree(root, _parents_first(reader.leaves, functions), functions, reader.paths)


class _Reader:
    def __init__(self) -> None:
        self.leaves: list[Leaf] = []
        self.paths: dict[Path, list[Leaf | Fixed | None]] = {}
        self.pending: list[tuple[Guard, Path, str]] = []

    def read(self, value: Any, path: Path, guards: tuple[Guard, ...], branches: tuple[tuple[str, int], ...]) -> Node:
        value = _as_domain(value)
        if isinstance(value, When):
            raise SpecError(f"when(...) at {_text(path)!r}: it can stand only as a value of a dict")
        node: Node
        if isinstance(value, Mapping):
            node = Group({})
            self.paths.setdefault(path, []).append(None)
            for key, item in value.items():
                inner, own = self._unwrap(item, path)
                place = (*path, *str(key).split("/"))
                node.parts[key] = (self.read(inner, place, guards + own, branches), own)
        elif isinstance(value, list | tuple) and not hasattr(value, "_fields"):  # a named tuple would lose its names
            self.paths.setdefault(path, []).append(None)
            parts = [self.read(item, (*path, str(i)), guards, branches) for i, item in enumerate(value)]
            node = Items(list if isinstance(value, list) else tuple, parts)
        elif isinstance(value, Constant) or not isinstance(value, Domain):
            node = Fixed(unboxed(value.value if isinstance(value, Constant) else value), path, guards)
            self.paths.setdefault(path, []).append(node)
        else:
            node = self._leaf(value, path, guards, branches)
        return node

    def _leaf(
        self, domain: Domain, path: Path, guards: tuple[Guard, ...], branches: tuple[tuple[str, int], ...]
    ) -> Leaf:
        leaf = Leaf(_text(path), path, domain, guards, branches=branches)
        self.leaves.append(leaf)
        self.paths.setdefault(path, []).append(leaf)
        if isinstance(domain, Categorical) and any(map(has_domain, domain.values)):
            leaf.domain = type(domain)(tuple(range(len(domain.values))))
            options = []
            for i, option in enumerate(domain.values):
                guard = Guard(f"{leaf.name} is {_label(option, i)}", (i,), [leaf], index=True)
                inside = (*branches, (leaf.name, i))
                options.append(self.read(option, path, (*guards, guard), inside))
            leaf.options = tuple(options)
        return leaf

    def _unwrap(self, item: Any, level: Path) -> tuple[Any, tuple[Guard, ...]]:
        """Take the conditions off a part; their names are resolved when the whole space is known."""
        guards: list[Guard] = []
        while isinstance(item, When):
            for name, allowed in item.conditions.items():
                words = [shown(value) for value in allowed]
                text = f"{name} == {words[0]!r}" if len(words) == 1 else f"{name} in {words!r}"
                guards.append(Guard(text, allowed, []))
                self.pending.append((guards[-1], level, name))
            item = item.value
        return item, tuple(guards)

    def name_leaves(self) -> None:
        """Tell apart parameters that have the same place in different branches: `optimizer[1]/lr`."""
        groups: dict[str, list[Leaf]] = {}
        for leaf in self.leaves:
            groups.setdefault(leaf.name, []).append(leaf)
        for leaves in groups.values():
            if len(leaves) > 1:
                for leaf in leaves:
                    leaf.name = _branch_name(leaf)
        names = [leaf.name for leaf in self.leaves]
        twice = next((name for name in names if names.count(name) > 1), None) if len({*names}) < len(names) else None
        if twice:
            raise SpecError(f"two parameters of the space are called {twice!r}; rename one")

    def resolve(self) -> None:
        """Find what the conditions' names mean."""
        for guard, level, name in self.pending:
            parts = tuple(name.split("/"))
            targets = self.paths.get(level + parts) or self.paths.get(parts)
            if targets is None:
                known = [_text(p) for p in self.paths if p] + [
                    _text(p[len(level) :]) for p in self.paths if p[: len(level)] == level and p != level
                ]
                hint = did_you_mean(name, known)
                raise SpecError(f"when {guard.text}: there is no parameter {name!r} in the space{hint}")
            found = [target for target in targets if target is not None]
            if any(isinstance(target, Leaf) and isinstance(target.domain, Function) for target in found) or not found:
                raise SpecError(f"when {guard.text}: {name!r} is neither a parameter nor a plain value")
            for value in guard.allowed:
                if not any(_can_be(target, value) for target in found):
                    words = [str(v) for target in found for v in _values_of(target)]
                    hint = did_you_mean(str(value), words)
                    raise SpecError(f"when {guard.text}: {name!r} is never {value!r}{hint}")
            guard.targets.extend(found)


def _as_domain(value: Any) -> Any:
    if is_ray_domain(value):
        return from_ray(value)
    if isinstance(value, Mapping) and set(value) == {"grid_search"}:
        return Grid(value["grid_search"])
    return value


def has_domain(value: Any) -> bool:
    """Tell whether a value contains a domain at any depth: then it is a space, not a plain value."""
    if isinstance(value, Constant):
        return True
    if isinstance(value, Domain | When) or is_ray_domain(value):
        return True
    if isinstance(value, Mapping):
        return set(value) == {"grid_search"} or any(map(has_domain, value.values()))
    return isinstance(value, list | tuple) and any(map(has_domain, value))


def _can_be(target: Leaf | Fixed, value: Any) -> bool:
    if isinstance(target, Fixed):
        return same(target.value, value)
    if target.options:
        return any(isinstance(option, Fixed) and same(option.value, value) for option in target.options)
    return target.domain.contains(value)


def _values_of(target: Leaf | Fixed) -> list[Any]:
    if isinstance(target, Fixed):
        return [target.value]
    if target.options:
        return [option.value for option in target.options if isinstance(option, Fixed)]
    return list(target.domain.values) if isinstance(target.domain, Categorical) else []


def _parents_first(leaves: Sequence[Leaf], functions: Sequence[Leaf]) -> list[Leaf]:
    """Order the leaves so that each comes after those its guards read, else as written."""
    late = set(map(id, functions))
    done: set[int] = set()
    order: list[Leaf] = []

    def visit(leaf: Leaf, above: tuple[Leaf, ...]) -> None:
        if id(leaf) in done:
            return
        if leaf in above:
            names = [item.name for item in above[above.index(leaf) :]]
            raise SpecError("the conditions of " + ", ".join(map(repr, names)) + " depend on each other in a circle")
        for parent in parents(leaf):
            visit(parent, (*above, leaf))
        done.add(id(leaf))
        if id(leaf) not in late:
            order.append(leaf)

    for leaf in leaves:
        visit(leaf, ())
    return order


def parents(leaf: Leaf | Fixed) -> Iterator[Leaf]:
    """Yield the parameters that decide whether `leaf` exists, directly or through a guarded plain value."""
    for guard in leaf.guards:
        for target in guard.targets:
            if isinstance(target, Leaf):
                yield target
            else:
                yield from parents(target)


def _text(path: Path) -> str:
    return "/".join(path)


def _branch_name(leaf: Leaf) -> str:
    """Write the number of the innermost branch into the name, at the choice that the branch belongs to."""
    name = leaf.name
    for choice, number in reversed(leaf.branches):
        if name == choice or name.startswith(choice + "/"):
            name = f"{choice}[{number}]{name[len(choice) :]}"
    return name


def _label(option: Any, number: int) -> str:
    if isinstance(option, Mapping):
        names = [v for v in option.values() if isinstance(v, str)]
        return repr(names[0]) if names else f"option {number}"
    return f"option {number}" if has_domain(option) else repr(shown(option))
