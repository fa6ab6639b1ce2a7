"""The search space: parameters with domains, conditions and constraints, whichever way it was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tune_platform.errors import SpecError
from tune_platform.protocol import seeds
from tune_platform.protocol.configs import to_json
from tune_platform.space import define_by_run
from tune_platform.space.constraints import Constraint
from tune_platform.space.define_by_run import Pick, Point, SpaceTrial
from tune_platform.space.domains import Categorical, Domain, Grid
from tune_platform.space.enumeration import Enumeration
from tune_platform.space.files import space_from_dict, space_to_dict
from tune_platform.space.functions_of_config import apply_functions
from tune_platform.space.match import match
from tune_platform.space.tree import Fixed, Tree, read_tree
from tune_platform.space.values import unboxed

ParamSpace = Mapping[str, Any] | Callable[[SpaceTrial], Any]
Rule = str | Callable[[Mapping[str, Any]], bool]
#: how many configs are drawn before a constraint counts as impossible to meet
TRIES = 1000


class Parameter(NamedTuple):
    """One parameter: its flat name ("/" between levels), its domain, and when it exists (None: always)."""

    name: str
    domain: Domain
    condition: str | None


class Space:
    """A search space.

    `param_space` is a nested dict of domains (ours or Ray Tune's) and plain values, or a function of a
    trial in Optuna's manner. `constraints` are functions of the config, or text such as `"low < high"`.
    SpecError when anything in it is wrong.
    """

    def __init__(self, param_space: ParamSpace | Space, constraints: Iterable[Rule] | Rule = ()) -> None:
        if isinstance(constraints, str) or callable(constraints):
            constraints = (constraints,)
        rules = tuple(Constraint(rule) for rule in constraints)
        if isinstance(param_space, Space):
            rules, param_space = (*param_space.constraints, *rules), param_space.param_space
        self.param_space: ParamSpace = param_space  #: as it was given
        self.constraints: tuple[Constraint, ...] = rules  #: what every config must meet
        self._tree: Tree | None = None
        self._function: Callable[[SpaceTrial], Any] | None = None
        if callable(param_space):
            self._function = param_space
            return
        self._tree = read_tree(param_space)
        known = {".".join(path) for path in self._tree.paths if path}
        for rule in self.constraints:
            rule.check_names(known)

    @property
    def define_by_run(self) -> bool:
        """Whether the space is a function, so that its parameters are known only by running it."""
        return self._function is not None

    @property
    def conditional(self) -> bool:
        """Whether some parameter exists only for some configs (for a function: it may be so)."""
        return self._tree is None or any(leaf.guards for leaf in self._tree.leaves)

    def parameters(self) -> list[Parameter]:
        """Return the parameters, parents first, without fixed and computed values; none for a function."""
        leaves = self._tree.leaves if self._tree else []
        return [Parameter(leaf.name, leaf.domain, leaf.condition) for leaf in leaves]

    # -------------------------------------------------------------------------------- building configs

    def build(self, pick: Pick) -> dict[str, Any]:
        """Build a config: `pick(name, domain)` is called for each parameter that exists, parents first.

        For a choice among branches the domain holds the branches' numbers. Constraints are not looked at.
        """
        return self._build(pick)[0]

    def _build(self, pick: Pick) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._function is not None:
            return define_by_run.run(self._function, pick)
        assert self._tree is not None
        values: dict[str, Any] = {}
        for leaf in self._tree.leaves:
            if leaf.active(values):
                values[leaf.name] = pick(leaf.name, leaf.domain)
        if self._tree.functions:
            return apply_functions(self._tree, values), values
        return self._tree.assemble(values), values

    def sample(self, rng: np.random.Generator, fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Draw a config that meets the constraints; `fixed` parameters (flat names) keep their values.

        SpecError after 1000 tries, naming the constraint that failed most often.
        """
        return self._draw(rng, fixed or {}, must_exist=False)

    def complete(self, partial: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Draw what a start point leaves out. SpecError when it cannot be in the space.

        Of a function, what the point has beside the parameters is in the config as it is there.
        """
        if self._function is None:
            return self._draw(rng, self.flatten(partial), must_exist=True)
        partial = unboxed(dict(partial))
        point = self._point(partial)
        config = self._draw(rng, point.values, must_exist=True)
        return define_by_run.with_constants(config, point.constants, partial) if point.constants else config

    def check_point(self, partial: Mapping[str, Any]) -> None:
        """Raise SpecError for a start point that cannot be in the space."""
        if self._function is None:
            self.flatten(partial)
        else:
            self._point(unboxed(dict(partial)))

    def _point(self, partial: Mapping[str, Any]) -> Point:
        assert self._function is not None
        generator = seeds.rng(0, 0, "point")
        return define_by_run.read_point(self._function, partial, lambda domain: domain.sample(generator))

    def _draw(self, rng: np.random.Generator, fixed: Mapping[str, Any], *, must_exist: bool) -> dict[str, Any]:
        failed: Counter[str] = Counter()
        for _ in range(TRIES):
            config, values = self._build(lambda name, domain: fixed[name] if name in fixed else domain.sample(rng))
            missing = [name for name in fixed if name not in values] if must_exist else []
            broken = self._broken(config)
            if broken is None and not missing:
                return config
            failed[f"constraint {broken.text!r}" if broken else f"that {missing[0]!r} exists"] += 1
            if set(values) <= set(fixed):  # nothing was drawn, so that nothing can change
                break
        (worst, times), tries = failed.most_common(1)[0], failed.total()
        given = f" with {dict(fixed)!r} given" if fixed else ""
        raise SpecError(f"no config meets the constraints{given}: {worst} failed in {times} of {tries} draws")

    # -------------------------------------------------------------------------------- judging configs

    def satisfied(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a config meets the constraints."""
        return self._broken(config) is None

    def _broken(self, config: Mapping[str, Any]) -> Constraint | None:
        return next((rule for rule in self.constraints if not rule.satisfied(config)), None)

    def flatten(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters' values in a config or a part of one, by flat name; branches by number.

        `build` gives the config back from them. SpecError for unknown names and values out of range.
        For a function, the values are found by the parameters' names, so its config must use them.
        """
        if isinstance(config, Mapping):
            config = unboxed(dict(config))
        if self._function is not None:
            return define_by_run.values_of(self._function, config)
        assert self._tree is not None
        return match(self._tree, config)

    def example(self, seed: int = 0) -> dict[str, Any]:
        """Draw a config to try things with, the same for the same seed."""
        return self.sample(seeds.rng(seed, 0, "check"))

    def check(self, seed: int = 0) -> float:
        """Return the share of draws that meet the constraints (1 without any).

        SpecError when none does, and when a config holds what no store can keep.
        """
        to_json(self.example(seed))
        if not self.constraints:
            return 1.0
        draws, generator = 200, seeds.rng(seed, 1, "check")
        pick: Pick = lambda name, domain: domain.sample(generator)  # noqa: E731
        return max(sum(self.satisfied(self.build(pick)) for _ in range(draws)), 1) / draws

    # -------------------------------------------------------------------------------- grids

    def check_values(self) -> None:
        """Raise SpecError, with the parameter's name, for a value of a choice or a constant that no store can keep."""
        if self._tree is None:
            return
        for leaf in self._tree.leaves:
            if isinstance(leaf.domain, Categorical):
                for value in leaf.domain.values:
                    to_json(value, leaf.name)
        for path, nodes in self._tree.paths.items():
            to_json(dict.fromkeys(path))
            for node in nodes:
                if isinstance(node, Fixed):
                    to_json(node.value, "/".join(path))

    @property
    def grid_size(self) -> int:
        """The number of points of the cross product of the `grid_search` parameters; 1 without any."""
        return self.grid_points().total

    def grid_points(self, *, everything: bool = False, by_name: bool = False) -> Enumeration:
        """Number the points of the `grid_search` parameters, or of all; SpecError if these have no end.

        The last parameter changes fastest; with `by_name`, as in Ray Tune, the first by its name. A space with
        conditions, which Ray Tune's grids have not, stays in its own order: what a condition reads comes first.
        """
        if self._tree is None:
            if everything:
                raise SpecError("a grid needs a space written as a dict, not as a function")
            return Enumeration([])
        leaves = [leaf for leaf in self._tree.leaves if everything or isinstance(leaf.domain, Grid)]
        if by_name and not any(leaf.guards for leaf in leaves):
            leaves.sort(key=lambda leaf: [part.zfill(9) if part.isdecimal() else part for part in leaf.name.split("/")])
            leaves.reverse()
        return Enumeration(leaves)

    # -------------------------------------------------------------------------------- files

    def to_dict(self) -> dict[str, Any]:
        """Return the file form, of JSON values; functions are shown by name."""
        if self._function is not None:
            return {"type": "function", "name": getattr(self._function, "__qualname__", repr(self._function))}
        form: dict[str, Any] = space_to_dict(self.param_space)
        return form

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], constraints: Iterable[Rule] | Rule = ()) -> Space:
        """Read the file form. SpecError, with the nearest known word, for what it does not know."""
        if not isinstance(data, Mapping):
            raise SpecError(f"the space must be a mapping of names to parameters, seen {data!r}")
        return cls(space_from_dict(data), constraints)

    def __repr__(self) -> str:
        rules = f", constraints={[rule.text for rule in self.constraints]}" if self.constraints else ""
        return f"Space({self.to_dict()}{rules})"
