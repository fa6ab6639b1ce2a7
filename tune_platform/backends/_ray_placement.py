"""What workers of the Ray backend hold, where, and how Ray is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ray.util import placement_group

from tune_platform.errors import SpecError
from tune_platform.resources import Resources

Amounts = tuple[tuple[str, float], ...]


class Shape(NamedTuple):
    """What a worker holds: a bundle on a node, or, with the other workers of its gang, one on each of several."""

    nodes: tuple[int, ...]
    bundle: Amounts
    strategy: str = "PACK"

    def of_node(self, node: int) -> dict[str, float]:
        """Return what is held on one node, by resource."""
        return {name: amount * self.nodes.count(node) for name, amount in self.bundle} if node in self.nodes else {}


def shape_of(nodes: Sequence[int], resources: Resources) -> Shape:
    """Return the shape of a trial's worker or gang on these nodes."""
    # A gang's workers are alike: which of them is on which of the nodes does not matter.
    return Shape(tuple(sorted(nodes)), tuple(sorted(resources.bundle().items())), resources.strategy)


def ray_names(bundle: Amounts) -> dict[str, float]:
    """Return a bundle under Ray's names."""
    return {{"cpu": "CPU", "gpu": "GPU"}.get(name, name): amount for name, amount in bundle}


def amounts_of(resources: Mapping[str, float]) -> dict[str, float]:
    """Return what a node of Ray has, under our names."""
    names = {"CPU": "cpu", "GPU": "gpu"}
    return {
        names.get(name, name): amount
        for name, amount in resources.items()
        if not name.startswith("node:") and name != "object_store_memory"
    }


def reserve(shape: Shape, node_ids: Sequence[str]) -> Any:
    """Reserve the bundles of a gang as one unit. The trial's process takes the first, and fills the others.

    Raises SpecError for workers that hold nothing.
    """
    if not shape.bundle:
        raise SpecError("the workers of a gang hold nothing: give them a CPU or a GPU, or a fraction of one")
    bundles = [ray_names(shape.bundle) for _ in shape.nodes]
    # Where each bundle goes was decided by the ledger, which knows what else is to be placed.
    labels = [{"ray.io/node-id": node_ids[node]} for node in shape.nodes]
    return placement_group(bundles, shape.strategy, bundle_label_selector=labels)
