from __future__ import annotations

import os
import random
import tempfile

import pytest

from tune_platform.backends._outbox import Outbox


def in_memory(outbox: Outbox) -> int:
    return len(outbox._head) + len(outbox._tail)


def test_things_come_out_in_order_however_they_are_taken() -> None:
    outbox, draw = Outbox(chunk=7), random.Random(0)
    put, taken = 0, []
    for _ in range(3000):
        for _ in range(draw.choice((0, 1, 1, 20))):
            outbox.put({"step": put})
            put += 1
        if draw.random() < 0.5:
            taken += outbox.take(draw.randrange(1, 30))
        assert in_memory(outbox) <= 2 * 7
        assert len(outbox) == put - len(taken)
    while len(outbox):
        taken += outbox.take(11)
    assert taken == [{"step": number} for number in range(put)]
    assert outbox.take(5) == []
    outbox.close()


def test_few_things_need_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    outbox = Outbox(chunk=100)
    for _ in range(50):
        for number in range(99):
            outbox.put(number)
        assert outbox.take(1000) == list(range(99))


def test_memory_is_bounded_and_the_disk_is_given_back() -> None:
    outbox = Outbox(chunk=50)
    for number in range(5000):
        outbox.put("x" * 100 + str(number))
        assert in_memory(outbox) <= 50
    assert outbox._file is not None
    descriptor = outbox._file.fileno()
    assert os.fstat(descriptor).st_size > 5000 * 100
    assert os.fstat(descriptor).st_nlink == 0, "a process that is killed leaves a file behind"
    assert len(outbox.take(10_000)) == 5000
    assert os.fstat(descriptor).st_size == 0
    outbox.close()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)
    outbox.close()


def test_where_the_disk_refuses_things_stay_in_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    outbox = Outbox(chunk=10)
    for number in range(95):
        outbox.put(number)
    assert outbox.take(1000) == list(range(95))
    assert caplog.text.count("cannot be written to the disk") == 1


def test_a_file_that_was_full_for_a_while_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, full = Outbox(chunk=10), [False]

    class Disk:
        def __getattr__(self, name: str) -> object:
            if full[0] and name == "write":
                raise OSError(28, "No space left on device")
            return getattr(real, name)

    real = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Disk())
    for number in range(100):
        full[0] = 30 <= number < 70
        outbox.put(number)
    assert outbox.take(1000) == list(range(100))
    outbox.close()
