"""What Ray's autoscaler is told."""

from __future__ import annotations

from ray.autoscaler.sdk import request_resources

from tune_platform.backends._ray_placement import ray_names
from tune_platform.cluster.demand import Bundles


def request(bundles: Bundles) -> None:
    """Have the autoscaler see to it that all of these fit at once, whatever runs; nothing: keep what is in use."""
    request_resources(bundles=[ray_names(tuple(bundle.items())) for bundle in bundles])
