"""`cluster.yaml`, and what stands in its comments, is what Ray takes."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parent.parent / "cluster.yaml"
BLOCK = re.compile(r"^# -+ (AWS|Google Cloud)\n(?:# .*\n)+#\n((?:#.*\n)+)", re.MULTILINE)


def variants() -> dict[str, dict[str, Any]]:
    """The file as it stands, and with each block of its comments in place of what that replaces."""
    text = FILE.read_text()
    plain = yaml.safe_load(text)
    found = {"local": plain}
    for name, block in BLOCK.findall(text):
        found[name] = plain | yaml.safe_load("".join(line[2:] for line in block.splitlines(keepends=True)))
    return found


def test_every_block_of_the_comments_is_found() -> None:
    assert {name: config["provider"]["type"] for name, config in variants().items()} == {
        "local": "local", "AWS": "aws", "Google Cloud": "gcp",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["local", "AWS", "Google Cloud"])
def test_ray_takes_it(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(variants()[name]))
    validate_config(prepared)
    kinds = prepared["available_node_types"]
    assert prepared["head_node_type"] in kinds
    wanted = 2 if name == "local" else 4
    assert sum(kind["min_workers"] for kind in kinds.values()) == prepared["max_workers"] == wanted


def test_ray_refuses_a_key_that_it_does_not_know() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(Exception, match="worker_count"):
        validate_config(prepare_config(variants()["local"] | {"worker_count": 2}))


def test_the_commands_use_the_environment_that_the_setup_makes() -> None:
    config = variants()["local"]
    (place,) = config["file_mounts"]
    assert config["file_mounts"][place] == "."
    assert any(f"cd {place} && ~/.local/bin/uv sync" in line for line in config["setup_commands"])
    for line in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        assert f"{place}/.venv/bin/ray" in line or f"cd {place} &&" in line
        assert ".venv/bin/ray" in line


@pytest.mark.parametrize(
    ("refuses", "knows"),
    [("no such option", "--user --quiet uv"), ("externally-managed-environment", "--break-system-packages")],
    ids=["Ubuntu 22.04", "Ubuntu 24.04"],
)
def test_uv_is_installed_whatever_pip_knows(refuses: str, knows: str, tmp_path: Path) -> None:
    """An older pip refuses an option that it does not know, a newer one refuses to do without it."""
    pip = tmp_path / "python3"
    wrong = "--break-system-packages" if refuses == "no such option" else "--user --quiet uv"
    pip.write_text(f'#!/bin/sh\ncase "$*" in *"{wrong}"*) exit 1;; esac\necho "$*" > {tmp_path}/installed\n')
    pip.chmod(0o755)
    (line,) = [line for line in variants()["local"]["setup_commands"] if "pip install" in line]
    home = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", line], env=home, check=True)
    assert knows in (tmp_path / "installed").read_text()


@pytest.mark.parametrize(("cloud", "client"), [("AWS", "boto3"), ("Google Cloud", "google-api-python-client")])
def test_the_head_gets_what_its_autoscaler_asks_the_cloud_with(cloud: str, client: str) -> None:
    """Without it no worker would ever come: the head's own environment starts them."""
    (line,) = variants()[cloud]["head_setup_commands"]
    assert line.startswith("cd ~/tune-platform && ~/.local/bin/uv pip install")
    assert client in line
