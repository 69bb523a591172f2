"""Two ranks meet: here two threads, which the stores do not tell from processes."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest

from tests.end_to_end.listeners import listeners
from trainer.update.rendezvous import at_socket, in_folder, store

TIMEOUT = timedelta(seconds=20)


def meet(rendezvous: str) -> list[bytes]:
    """What the ranks read of each other."""

    done = Barrier(2)

    def rank(number: int) -> bytes:
        met = store(rendezvous, number, 2, TIMEOUT)
        met.set(f"from {number}", f"rank {number}")
        read: bytes = met.get(f"from {1 - number}")
        done.wait(20)  # rank 0's store serves the other, and is gone with it
        return read

    with ThreadPoolExecutor(2) as both:
        return list(both.map(rank, (0, 1)))


def test_ranks_of_a_machine_meet_in_a_folder(tmp_path: Path) -> None:
    assert meet(in_folder(tmp_path)) == [b"rank 1", b"rank 0"]
    assert in_folder(tmp_path) != in_folder(tmp_path)


def test_ranks_of_several_machines_meet_at_a_socket_that_nobody_else_can_take() -> None:
    rendezvous = at_socket("127.0.0.1")
    host, _, port = rendezvous.removeprefix("tcp:").rpartition(":")
    assert host == "127.0.0.1"
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", int(port)))
    assert meet(rendezvous) == [b"rank 1", b"rank 0"]


def test_a_rank_alone_listens_nowhere() -> None:
    before = listeners([os.getpid()])
    rendezvous = at_socket("127.0.0.1")
    assert len(listeners([os.getpid()])) == len(before) + 1
    alone = store(rendezvous, 0, 1, TIMEOUT)
    alone.set("key", "value")
    assert alone.get("key") == b"value"
    assert listeners([os.getpid()]) == before
