"""Where ranks find each other: torch's store. It asks nobody for a password, so it listens only where it must.

Alone, a rank needs no other process. Ranks of one machine meet in a file of a private folder. Only between machines
is there a socket: rank 0 opens it before the others are told of it, and hands it over as it is, so that no other
process can take the port meanwhile.
"""

import secrets
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

FILE, TCP = "file:", "tcp:"

_opened: dict[str, socket.socket] = {}
"""Sockets of this process that are still to be handed over, by their rendezvous."""


def in_folder(folder: Path) -> str:
    """A rendezvous of ranks that can all write into the folder, a new one with every call."""
    return f"{FILE}{folder / f'ranks-{secrets.token_hex(8)}'}"


def at_socket(host: str) -> str:
    """A rendezvous at this process, which has to be rank 0's. host: an address of its machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.create_server((host, 0), family=family)
    rendezvous = f"{TCP}{host}:{opened.getsockname()[1]}"
    _opened[rendezvous] = opened
    return rendezvous


def store(rendezvous: str, rank: int, ranks: int, timeout: timedelta) -> Any:
    """torch's store at a rendezvous, for `torch.distributed.init_process_group`.

    timeout: how long ranks wait for each other.
    """
    from torch.distributed import FileStore, HashStore, TCPStore  # type: ignore[attr-defined]

    opened = _opened.pop(rendezvous, None)
    if ranks == 1:
        if opened:
            opened.close()
        return HashStore()
    if rendezvous.startswith(FILE):
        return FileStore(rendezvous.removeprefix(FILE), ranks)
    host, _, port = rendezvous.removeprefix(TCP).rpartition(":")
    return TCPStore(
        host,
        int(port),
        ranks,
        is_master=rank == 0,
        timeout=timeout,
        master_listen_fd=opened.detach() if opened else None,
    )
