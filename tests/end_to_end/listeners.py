"""What processes listen on, from /proc."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path

LISTEN = "0A"


@dataclass(frozen=True)
class Listener:
    """An open TCP server or a UDP socket."""

    protocol: str
    host: str
    port: int
    pid: int

    @property
    def on_loopback(self) -> bool:
        address = ip_address(self.host)
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return address.is_loopback


def listeners(pids: Iterable[int]) -> list[Listener]:
    """Of these processes."""
    sockets = {}
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if protocol.startswith("udp") or fields[3] == LISTEN:
                sockets[f"socket:[{fields[9]}]"] = (protocol, *_address(fields[1]))
    found = []
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                name = str(fd.readlink())
                if name in sockets:
                    found.append(Listener(*sockets[name], pid))
    return found


def answer(listener: Listener, path: str) -> bytes:
    """The first line that an HTTP request without any credentials is answered with."""
    with suppress(OSError), socket.create_connection((listener.host, listener.port), 5) as client:
        client.settimeout(5)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return client.recv(1000).partition(b"\r\n")[0]
    return b""


def _address(text: str) -> tuple[str, int]:
    """The kernel writes 32-bit words in the machine's order."""
    host, port = text.split(":")
    words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(words)), int(port, 16)
