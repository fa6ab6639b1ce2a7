"""Prints what each collective of a gang sends over the loopback interface, in units of the payload."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tune_platform.distributed import Gang
from tune_platform.distributed.member import Place

NUMEL, TIMES = 1_000_000, 5


class Sender:
    def __init__(self, place: Place) -> None:
        self.place = place

    def send(self, name: str) -> None:
        tensor, comm = torch.ones(NUMEL), self.place.comm
        for _ in range(TIMES):
            if name == "broadcast":
                comm.broadcast(tensor, 0)
            else:
                getattr(comm, name)(tensor)


def sent() -> int:
    fields = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "lo:" in line).split()
    return int(fields[9])


def main(workers: int) -> None:
    torch.set_num_threads(1)
    gang = Gang("processes", workers)
    group = gang.group()
    group.open("loopback", Sender)
    for name in ("all_reduce", "broadcast", "all_gather"):
        group.call("loopback", "send", name)  # connections are made
        before = sent()
        group.call("loopback", "send", name)
        sys.stdout.write(f"{name} {(sent() - before) / (4 * NUMEL * TIMES)}\n")
    gang.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
