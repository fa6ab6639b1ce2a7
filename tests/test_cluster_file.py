"""`cluster.yaml` and the files of `examples/cluster` are what Ray, Kubernetes and bash take."""

from __future__ import annotations

import copy
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tune_platform.cli import main
from tune_platform.cli.run import overrides_of
from tune_platform.spec import SearchSpec, resolve

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "examples" / "cluster"
FILES = {"local": ROOT / "cluster.yaml", "AWS": CLUSTER / "aws.yaml", "Google Cloud": CLUSTER / "gcp.yaml"}


def variants() -> dict[str, dict[str, Any]]:
    """What `ray up` is given, by the name of where the machines are."""
    return {name: yaml.safe_load(path.read_text()) for name, path in FILES.items()}


def test_the_clouds_set_up_their_nodes_as_the_plain_file_does() -> None:
    _, *others = variants().values()
    own = {"provider", "auth", "max_workers"}
    # Where machines are listed, the second autoscaler would leave one of them out: see the file.
    plain = yaml.safe_load(FILES["local"].read_text().replace("RAY_enable_autoscaler_v2=0 ", ""))
    for other in others:
        assert {key: other.get(key) for key in plain.keys() - own} == {key: plain[key] for key in plain.keys() - own}
    assert [config["provider"]["type"] for config in (plain, *others)] == ["local", "aws", "gcp"]


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
    (place,) = (there for there, here in config["file_mounts"].items() if here == ".")
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"  # else each would have one of its own
    assert any(f"cd {place} && ~/.local/bin/uv sync" in line for line in config["setup_commands"])
    for line in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        here = (
            f"cd {place} &&" in line
            and " PATH=$PWD/.venv/bin:$PATH RAY_AUTH_MODE=token && " in line
            and " ray start --" in line
        )
        assert here or f"{place}/.venv/bin/ray stop" in line, line  # jobs of this Ray find `tune-platform` too


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


def rayjob() -> dict[str, Any]:
    """The manifest for KubeRay."""
    found: dict[str, Any] = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    return found


def test_the_rayjob_has_only_fields_of_kuberay() -> None:
    """The names are those of the types RayJobSpec, RayClusterSpec and WorkerGroupSpec of `ray.io/v1`."""
    job = rayjob()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec.keys() <= {
        "activeDeadlineSeconds", "backoffLimit", "entrypoint", "rayClusterSpec", "runtimeEnvYAML",
        "shutdownAfterJobFinishes", "submissionMode", "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished",
    }  # fmt: skip
    cluster = spec["rayClusterSpec"]
    assert cluster.keys() == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers.keys() == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    images = set()
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # the schema takes no numbers
        (container,) = group["template"]["spec"]["containers"]
        images.add(container["image"])
    assert len(images) == 1, "Ray refuses to join different versions"


def command(words: str) -> SearchSpec:
    """The spec that a command of ours would run: all of its options are known."""
    verb, *rest = shlex.split(words)[1:]
    context = main.commands[verb].make_context(verb, rest)
    options = dict(context.params)
    assert verb == "run"
    return resolve(options.pop("spec"), overrides=overrides_of(options))[0]


def test_the_rayjob_runs_a_search_that_a_second_try_goes_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    search = command(rayjob()["spec"]["entrypoint"])
    assert (search.name, search.if_exists, search.checkpoint.storage) == ("digits", "resume", "s3://bucket/tune")


STUB = """#!/bin/bash
name=$(basename "$0")
echo "$name $*" >> "$LOG"
case $name in
  hostname) [[ $1 == -s ]] && echo node1 || echo 10.0.0.5 ;;
  srun) while [[ $1 == --* ]]; do shift; done; exec "$@" ;;
  tune-platform)
    until (($(grep -c '^ray start' "$LOG") == 2)); do sleep 0.05; done
    if [[ ${WAITS:-} ]]; then
      trap 'echo saved >> "$LOG"; exit 130' TERM
      kill -TERM "$PPID"
      while :; do read -t 0.05 <> <(:) || true; done
    fi
    exit 3 ;;
esac
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Return a function that runs the script for Slurm with stubs for all that it calls: its code, and the calls."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("srun", "ray", "hostname", "tune-platform"):
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)

    def run(**more: str) -> tuple[int, list[str]]:
        log = tmp_path / "log"
        env = {"PATH": os.environ["PATH"], "LOG": str(log), "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "4",
               "SLURM_CPUS_PER_TASK": "8", **more}  # fmt: skip
        done = subprocess.run(["bash", CLUSTER / "slurm.sh", "spec.yaml", "digits"], cwd=tmp_path, env=env,
                              stderr=subprocess.PIPE, text=True, timeout=60)  # fmt: skip
        return done.returncode, [*(log.read_text().splitlines() if log.exists() else ()), *done.stderr.splitlines()]

    return run


STORE = "postgresql://ada@db/tune"


def test_slurm_starts_a_head_workers_and_the_search(
    slurm: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    code, calls = slurm(TUNE_PLATFORM_STORAGE=STORE, SLURM_GPUS_ON_NODE="2")
    assert code == 3, calls  # that of the search
    starts = [line for line in calls if line.startswith("srun")]
    assert len(starts) == 2
    assert sum("--nodelist=node1" in line and "--head" in line and "--port=20007" in line for line in starts) == 1
    assert (
        sum("--nodes=3 --ntasks=3 --exclude=node1" in line and "--address=10.0.0.5:20007" in line for line in starts)
        == 1
    )
    assert all("--num-cpus=8 --num-gpus=2" in line for line in starts)
    run = (
        f"tune-platform run spec.yaml --name digits --if-exists resume --set checkpoint.storage={tmp_path}/checkpoints"
    )
    assert run in calls


def test_slurm_waits_while_the_search_saves(slurm: Callable[..., tuple[int, list[str]]]) -> None:
    code, calls = slurm(TUNE_PLATFORM_STORAGE=STORE, WAITS="yes")
    assert (code, calls.count("saved")) == (130, 1), calls


def test_slurm_wants_a_store_that_the_next_job_finds_too(slurm: Callable[..., tuple[int, list[str]]]) -> None:
    code, calls = slurm()
    assert code != 0
    assert len(calls) == 1
    assert "TUNE_PLATFORM_STORAGE: set it to the URL of a PostgreSQL" in calls[0]
