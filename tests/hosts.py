"""Machines for a test: three hosts and a laptop, as namespaces of this one. Needs root, sshd, rsync and overlayfs.

Each has its own network address, host name, processes, /tmp, /run, /dev/shm and home: the home of this machine as it
was, on which whatever it writes stays its own and goes when it does. /mnt is one folder for all of them, as a network
file system would be. The network is a bridge inside the laptop's namespace (addresses of RFC 5737, for documentation):
nothing of this machine's own network is touched, and nothing outside can be reached from there.

On a real host `uv sync` downloads the environment. Here an *image* has it already: that of these tests with the
packages put right by `uv sync`, once, over this machine's network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAPTOP, *HOSTS = "192.0.2.1", "192.0.2.10", "192.0.2.11", "192.0.2.12"
_PROGRAMS = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync", "git": "git"}
_WITHIN = 60.0

#: Makes the image: $1 is its folder, $2 the environment of these tests, $3 the checkout.
_IMAGE = """
set -eu
mount --make-rprivate /
home=$(cd ~ && pwd)
mount -t tmpfs tmpfs /mnt
mkdir -p "$home/.cache/uv" /mnt/venv /mnt/image /mnt/checkout /mnt/cache
mount --bind "$home/.cache/uv" /mnt/cache
mount --bind "$1" /mnt/image
mount --bind "$2" /mnt/venv
mount --bind "$3" /mnt/checkout
mkdir -p "$1"/{home,venv,work,venvwork}
mount -t overlay overlay -o "lowerdir=$home,upperdir=/mnt/image/home,workdir=/mnt/image/work" "$home"
mkdir -p "$home/.local/bin" "$home/.ssh" "$home/tune-platform/.venv" "$home/.cache/uv"
mount --bind /mnt/cache "$home/.cache/uv"
rm -f "$home/.ssh/"*
cp "$4" "$home/.local/bin/uv"
cd /mnt/checkout
git ls-files -z | rsync -a --from0 --files-from=- . "$home/tune-platform/"
[ ! -f uv.lock ] || cp uv.lock "$home/tune-platform/"
mount -t overlay overlay -o "lowerdir=/mnt/venv,upperdir=/mnt/image/venv,workdir=/mnt/image/venvwork" \
  "$home/tune-platform/.venv"
cd "$home/tune-platform"
{ grep -lI "^#!$2/" .venv/bin/* || true; } | xargs -r sed -i "1s|$2/|$PWD/.venv/|"
~/.local/bin/uv sync --python 3.11 --no-dev --extra all --compile-bytecode --quiet
find . -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
"""

#: The first process of a machine: $1 is its name, $2 its folder, $3 that of the image, $4 the shared one, $5 the
#: environment of these tests. It goes on when its network is there, and takes in what others leave behind.
_BOOT = """
set -eu
mount --make-rprivate /
hostname "$1"
home=$(cd ~ && pwd)
mount -t tmpfs tmpfs /mnt
mkdir /mnt/own /mnt/image /mnt/venv /mnt/shared
mount --bind "$2" /mnt/own
mount --bind "$3" /mnt/image
mount --bind "$5" /mnt/venv
mount --bind "$4" /mnt/shared
mount -t overlay overlay -o "lowerdir=/mnt/image/home:$home,upperdir=/mnt/own/home,workdir=/mnt/own/work" "$home"
mount -t overlay overlay -o "lowerdir=/mnt/image/venv:/mnt/venv,upperdir=/mnt/own/venv,workdir=/mnt/own/venvwork" \
  "$home/tune-platform/.venv"
rm -rf "$home/.ray" "$home/tune_results"
mkdir -p "$home/.ssh"
cp /mnt/shared/key "$home/.ssh/id_ed25519"
cp /mnt/shared/key.pub "$home/.ssh/authorized_keys"
chmod 600 "$home/.ssh/"*
ssh-keygen -q -t ed25519 -N '' -f /mnt/own/host_key
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t tmpfs -o size=2g tmpfs /dev/shm
chmod 1777 /tmp /dev/shm
mkdir -p /run/sshd
ip link set lo up
echo ready > /mnt/own/ready
until ip -4 addr show dev eth0 2>/dev/null | grep -q inet; do sleep 0.1; done
if [ "$1" != laptop ]; then
  "$(command -v sshd)" -D -e -f /dev/null -o HostKey=/mnt/own/host_key -o PermitRootLogin=yes -o UsePAM=no \
    -o PidFile=none -o StrictModes=no -o AuthorizedKeysFile="$home/.ssh/authorized_keys" -o MaxStartups=100 \
    -o SetEnv="UV_OFFLINE=1 UV_LINK_MODE=copy" 2> /mnt/own/sshd.log &
fi
while :; do wait -n || sleep 0.2; done
"""


def why_not() -> str:
    """Why such machines cannot be had here; nothing where they can."""
    if os.geteuid() != 0:
        return "not root: no machines can be made of namespaces"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if missing := [package for program, package in _PROGRAMS.items() if not shutil.which(program, path=path)]:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--uts", "bash", "-c",
         "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt && mkdir /mnt/{a,b,c,d} && "
         "mount -t overlay overlay -o lowerdir=/mnt/a,upperdir=/mnt/b,workdir=/mnt/c /mnt/d && "
         "ip link add br0 type bridge && ip link add veth0 type veth peer name veth1"],
        capture_output=True, text=True,
    )  # fmt: skip
    return f"no namespaces to be had: {tried.stderr.strip()}" if tried.returncode else ""


def _uv() -> str:
    """Return uv itself: what pyenv puts on the path is a script that finds it."""
    import sysconfig

    found = [Path(sys.base_prefix, "bin", "uv"), Path(sysconfig.get_path("scripts"), "uv")]
    for path in (*found, Path(shutil.which("uv") or "/")):
        if path.is_file() and path.read_bytes()[:4] == b"\x7fELF":
            return str(path)
    pytest.skip("no uv on this machine")


def _image() -> Path:
    """Return the folder of the image, which is made where there is none of these packages yet: that takes minutes."""
    parts = sorted(path.name for path in Path(sys.prefix).glob("lib/python*/site-packages/*.dist-info"))
    known = "\n".join([sys.prefix, (ROOT / "pyproject.toml").read_text(), _IMAGE, *parts])
    # Not below the home, of which it is a layer.
    image = Path("/var/tmp/tune-platform-tests", f"hosts-{hashlib.sha256(known.encode()).hexdigest()[:16]}")
    if not image.exists():
        for old in image.parent.glob("hosts-*"):
            shutil.rmtree(old)
        draft = image.with_name(f"draft-{os.getpid()}")
        draft.mkdir(parents=True)
        made = subprocess.run(
            ["unshare", "--mount", "bash", "-c", _IMAGE, "image", draft, sys.prefix, ROOT, _uv()],
            env=os.environ | {"UV_LINK_MODE": "copy"}, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        if made.returncode:
            shutil.rmtree(draft)
            pytest.skip(f"the environment of the hosts could not be made: {made.stderr[-2000:]}")
        draft.rename(image)
    return image


class Machine:
    """One of them. `pid` is that of its first process, seen from here."""

    def __init__(self, name: str, address: str, place: Path, image: Path, shared: Path) -> None:
        self.name, self.address, self._folder = name, address, place / name
        for each in ("home", "work", "venv", "venvwork"):
            (self._folder / each).mkdir(parents=True)
        with (self._folder / "boot.log").open("w") as log:
            self._unshare = subprocess.Popen(
                ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--uts", "--ipc",
                 "--kill-child=KILL", "bash", "-c", _BOOT, "boot", name, self._folder, image, shared, sys.prefix],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                env=_environment(), start_new_session=True,
            )  # fmt: skip
        self._await(lambda: (self._folder / "ready").exists())
        task = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self.pid = int(task.read_text().split()[0])

    def _await(self, condition: object) -> None:
        end = time.monotonic() + _WITHIN
        while not condition():  # type: ignore[operator]
            assert self._unshare.poll() is None, (self._folder / "boot.log").read_text()
            assert time.monotonic() < end, f"{self.name} did not come up within {_WITHIN:g} s"
            time.sleep(0.05)

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the command line that runs this there."""
        inside = ["--target", str(self.pid), "--net", "--mount", "--pid", "--uts", "--ipc"]
        return ["nsenter", *inside, "--", *words]

    def shell(self, script: str, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a script of bash there, in the checkout, and return what came of it."""
        words = self.command(["bash", "-c", f"cd ~/tune-platform && export PATH=$PWD/.venv/bin:$PATH && {script}"])
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
                              env=_environment())  # fmt: skip

    def start(self, script: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a script of bash there, in the checkout; what it prints goes to `log`."""
        words = self.command(["bash", "-c", f"cd ~/tune-platform && export PATH=$PWD/.venv/bin:$PATH && {script}"])
        with log.open("w") as kept:
            return subprocess.Popen(words, stdout=kept, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                    env=_environment(), start_new_session=True)  # fmt: skip

    def off(self) -> None:
        """Pull the plug: all of its processes are gone at once."""
        if self._unshare.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._unshare.wait()


def _environment() -> Mapping[str, str]:
    """What a fresh login would have: nothing of pytest's, of Ray's or of this environment."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TERM", "USER", "SSL_CERT_FILE") if name in os.environ}
    path = [each for each in os.environ["PATH"].split(":") if not each.startswith(sys.prefix)]
    return kept | {"PATH": ":".join([*path, "/usr/sbin", "/sbin"]), "UV_OFFLINE": "1", "UV_LINK_MODE": "copy"}


class Machines:
    """A laptop and the hosts, connected; `shared` is what they see as /mnt/shared."""

    def __init__(self, place: Path) -> None:
        self.shared = place / "shared"
        self.shared.mkdir()
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        copy = ["rsync", "-a", "--from0", "--files-from=-", ".", f"{self.shared}/checkout/"]
        subprocess.run(copy, cwd=ROOT, input=files, check=True)
        image = _image()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.shared / "key"], check=True)
        self._all: list[Machine] = []
        try:
            self.laptop = self._boot("laptop", LAPTOP, place, image)
            self.hosts = [self._boot(f"host{number}", each, place, image) for number, each in enumerate(HOSTS)]
            self._connect()
        except BaseException:
            self.close()
            raise

    def _boot(self, name: str, address: str, place: Path, image: Path) -> Machine:
        machine = Machine(name, address, place, image, self.shared)
        self._all.append(machine)
        return machine

    def _connect(self) -> None:
        """Lay the cables. The bridge is the laptop's eth0."""
        lines = ["ip link add eth0 type bridge", "ip link set eth0 up"]
        for host in self.hosts:
            lines += [
                f"ip link add {host.name} type veth peer name eth0 netns /proc/{host.pid}/ns/net",
                f"ip link set {host.name} master eth0 up",
            ]
        lines.append(f"ip addr add {LAPTOP}/24 dev eth0")
        net = ["nsenter", "--net", "--target"]  # of the network alone: /proc is that of here
        subprocess.run([*net, str(self.laptop.pid), "bash", "-ec", "\n".join(lines)], check=True, env=_environment())
        for host in self.hosts:
            # The way out leads nowhere, but Ray looks on which card it would be to find a host's own address.
            script = f"ip link set eth0 up; ip route add default dev eth0; ip addr add {host.address}/24 dev eth0"
            subprocess.run([*net, str(host.pid), "bash", "-ec", script], check=True, env=_environment())

    def close(self) -> None:
        """Switch everything off."""
        for machine in reversed(self._all):
            machine.off()
