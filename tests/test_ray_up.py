"""`ray up cluster.yaml`, for real, on three machines that are namespaces of this one: see `hosts`.

It asks for root, sshd, rsync and overlayfs, and is skipped with the reason where these are not to be had. The first run
on a machine makes the environment of the hosts, which later ones find.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator

import pytest
import yaml

from tests.hosts import HOSTS, Machines, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]

MINE = "/mnt/shared/mine.yaml"
_WITHIN = 300.0
_PAGE = "http://localhost:8265"
#: One trial takes the whole of a host, so that there is one on each.
_SEARCH = (
    f"tune-platform submit examples/digits.yaml --address {_PAGE} --wait -- --name digits --trials 3 --concurrency 3"
    f" --set checkpoint.storage=/mnt/shared/checkpoints --set resources.cpu={os.cpu_count()} --set schedule.max=3"
)
#: Waits until there are three nodes: each further command on the head costs seconds.
_LOOK = f"""
import ray, time
ray.init('auto', log_to_driver=False)
end = time.monotonic() + {_WITHIN}
while (alive := sum(node['Alive'] for node in ray.nodes())) < 3 and time.monotonic() < end:
    time.sleep(0.2)
print('nodes:', alive)
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    if problem := why_not():
        pytest.skip(problem)
    made = Machines(tmp_path_factory.mktemp("machines"))
    yield made
    made.close()


def _await(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    end = time.monotonic() + _WITHIN
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.5)


def test_a_cluster_comes_up_from_the_shipped_file_runs_a_search_and_goes_down(machines: Machines) -> None:
    laptop, shared = machines.laptop, machines.shared
    filled = yaml.safe_load((shared / "checkout" / "cluster.yaml").read_text())
    filled["provider"] |= {"head_ip": HOSTS[0], "worker_ips": list(HOSTS[1:])}
    filled["auth"] |= {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
    (shared / "mine.yaml").write_text(yaml.safe_dump(filled, sort_keys=False))
    (shared / "nodes.py").write_text(_LOOK)

    def there(script: str, timeout: float = 600.0) -> str:
        # A real laptop's environment has the package from its own checkout.
        done = laptop.shell(
            f"cd /mnt/shared/checkout && export PYTHONPATH=$PWD RAY_AUTH_MODE=token && {script}", timeout
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def on_head(script: str) -> str:
        quoted = shlex.quote(f"cd ~/tune-platform && PATH=$PWD/.venv/bin:$PATH RAY_AUTH_MODE=token && {script}")
        return there(f"ray exec {MINE} {quoted}")

    there("ray get-auth-token --generate > /dev/null")  # before, there is none anywhere
    there(f"ray up --yes --no-config-cache {MINE}")
    forwarded = laptop.start(f"ray dashboard {MINE}", shared / "forward.log")
    assert "nodes: 3" in on_head("export RAY_AUTH_MODE && python /mnt/shared/nodes.py"), on_head("ray status")
    look = f"curl --silent --output /dev/null {_PAGE}/api/version"
    _await(lambda: not laptop.shell(look).returncode, lambda: (shared / "forward.log").read_text())
    printed = there(f"{_SEARCH} 2>&1")
    assert "all 3 trials are done" in printed, printed
    job = re.findall(r"job (raysubmit_\w+)", printed)[0]
    assert "all 3 trials are done" in there(f"ray job logs -f {job} --address {_PAGE}")
    os.killpg(forwarded.pid, signal.SIGTERM)
    forwarded.wait()

    text = on_head("tune-platform show digits --storage ~/tune_results --json")
    shown, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])  # behind it, ssh says that it goes
    assert len({trial["worker"].partition(":")[0] for trial in shown["trials"]}) == 3, shown

    on_head("ray stop")  # the workers miss the head a minute later
    there(f"mkdir ~/fetched && ray rsync-down {MINE} '~/tune_results/digits/' ~/fetched/digits/")
    assert "val_accuracy" in there("tune-platform best digits --storage ~/fetched")
    there(f"ray down --yes {MINE}")
    look = "pgrep --list-name --exact 'raylet|gcs_server'"  # those of the workers go when they miss the head
    _await(
        lambda: not any(host.shell(look).stdout for host in machines.hosts),
        lambda: machines.hosts[1].shell(look).stdout,
    )
