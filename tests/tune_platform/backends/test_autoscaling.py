"""Ray's autoscaler is asked for the nodes that a search needs, and lets them go after it: its fake one, whose nodes are
processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._private.services import get_node_ip_address

from tests.tune_platform.backends.processes import own_folder, running_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"

SEARCH = """
import sys, time
from tune_platform import SearchSpec, run, uniform
from tune_platform.backends.ray import RayBackend

def train(config):
    time.sleep(0.5)
    return {"loss": config["x"]}

spec = SearchSpec(
    name="scaled", trainable=train, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=8,
    max_concurrent=2, backend=RayBackend(sys.argv[1], autoscale=True, idle_s=1.0, refresh_s=0.5), storage=sys.argv[2],
    progress="off",
)
print(run(spec).counts)
"""

LOOK = """
import json, sys, time
import ray
ray.init(sys.argv[1], log_to_driver=False, logging_level=40)
while True:
    cpus = sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    print(json.dumps(cpus), flush=True)
    time.sleep(0.5)
"""


def configuration(address: str) -> dict[str, Any]:
    """At most four nodes of one CPU, none to begin with."""
    provider = {
        "type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True, "gcs_address": address,
        "disable_launch_config_check": True, "launch_multiple": True, "head_node_id": _HEAD,
    }  # fmt: skip
    head: dict[str, Any] = {"resources": {}, "node_config": {}, "max_workers": 0}
    small = {"resources": {"CPU": 1, "object_store_memory": 10**8}, "node_config": {}, "max_workers": 4}
    commands = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
                "head_start_ray_commands", "worker_start_ray_commands", "rsync_exclude", "rsync_filter",
                "cluster_synced_files")  # fmt: skip
    nothing: dict[str, Any] = {key: [] for key in commands}  # all keys are wanted where nothing is launched by ssh
    return nothing | {
        "file_mounts": {}, "file_mounts_sync_continuously": False,
        "cluster_name": "fake", "provider": provider, "head_node_type": "ray.head.default", "max_workers": 4,
        "available_node_types": {"ray.head.default": head, "small": small}, "idle_timeout_minutes": 0.05,
        "upscaling_speed": 1.0, "auth": {"ssh_user": "nobody"},
    }  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Return the address of the cluster, and the environment for its drivers."""
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"{get_node_ip_address()}:{free.getsockname()[1]}"
    (tmp_path / "cluster.json").write_text(json.dumps(configuration(address)))
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"RAY_AUTH_MODE": "disabled"}
    of_ray = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "0"}
    with own_folder() as folder:
        words = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={address.rpartition(':')[2]}",
            "--num-cpus=0", f"--temp-dir={folder}", "--include-dashboard=false",
            f"--autoscaling-config={tmp_path / 'cluster.json'}", "--disable-usage-stats", "--block",
        ]  # fmt: skip
        with (tmp_path / "head.log").open("w") as log:
            head = subprocess.Popen(words, env=env | of_ray, stdout=log, stderr=subprocess.STDOUT)
        try:
            while "Ray runtime started" not in (tmp_path / "head.log").read_text():
                assert head.poll() is None, (tmp_path / "head.log").read_text()
                time.sleep(0.2)
            yield address, env
        finally:
            head.terminate()
            head.wait()
            for pid in running_in(folder):
                os.kill(pid, signal.SIGKILL)


def test_nodes_come_for_a_search_and_go_after_it(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, env = cluster
    look = subprocess.Popen([sys.executable, "-c", LOOK, address], env=env, stdout=subprocess.PIPE, text=True)
    assert look.stdout is not None
    try:
        assert json.loads(look.stdout.readline()) == 0
        search = subprocess.run(
            [sys.executable, "-c", SEARCH, address, str(tmp_path)], env=env, capture_output=True, text=True,
            timeout=200,
        )  # fmt: skip
        assert search.stdout == "{'COMPLETED': 8}\n", search.stderr
        seen = [0]
        while seen[-1] or max(seen) == 0:  # until none is left; the test's timeout is the limit
            seen.append(json.loads(look.stdout.readline()))
    finally:
        look.kill()
        look.communicate()
    # A worker that is to follow another may be asked for before the place of that is free: then one more comes.
    assert 2 <= max(seen) < 4, "two trials may run at a time, though there could be four nodes"
