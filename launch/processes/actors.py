"""The processes: Ray actors around an engine and around a rank.

Ray imports this module before it makes an actor, and how many threads to use is known only then. So importing it must
not import torch, which settles that on import.
"""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import ray

from generation.engine import Engine, EngineSpec, SampleRequest
from generation.groups import Group
from launch.processes import session
from launch.processes.heartbeat import beat_forever
from launch.processes.segment import Address, Bytes, attach, parts
from launch.processes.threads import use_threads
from trainer.signal.step_size import StepSize
from trainer.update.forest import Forest
from trainer.update.rank import Rank, RankSpec
from trainer.update.rendezvous import at_socket, in_folder
from trainer.update.report import RankReport

if TYPE_CHECKING:
    from generation.buckets import Layout
    from trainer.update.weight_sync import Sender

T = TypeVar("T")

Listener = tuple[str, int]
"""Address and port where a process listens."""


class EngineProcess:
    """Hosts an engine; its methods are the engine's."""

    def __init__(self, spec: EngineSpec) -> None:
        beat_forever()
        use_threads(spec.engine.threads, spec.engine.engines)
        self._engine = Engine(spec)
        self._segments: dict[int, Bytes] = {}

    def ready(self) -> None:
        """Returns when the model is loaded."""

    @ray.method(num_returns="streaming")
    def stream(self, requests: Sequence[SampleRequest]) -> Iterator[tuple[int, Group]]:
        yield from self._engine.stream(requests)

    def sleep(self) -> None:
        self._engine.sleep()

    def wake_up(self, what: Literal["weights", "kv_cache"]) -> None:
        self._engine.wake_up(what)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._engine.init_weight_transfer_engine(init_info)

    def start_weight_update(self) -> None:
        self._engine.start_weight_update()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._engine.update_weights(update_info)

    def attach(self, index: int, address: Address) -> bool:
        """Whether this process can read the sending rank's segment, number `index` from now on."""
        segment = attach(address)
        if segment is not None:
            self._segments[index] = segment
        return segment is not None

    def update_weights_from(self, index: int, sizes: Sequence[int], layout: "Layout") -> None:
        """`update_weights` with the bucket in segment `index`. sizes: bytes of each weight."""
        data = tuple(parts(self._segments[index], sizes))
        self._engine.update_weights({"data": data, "layout": layout})

    def finish_weight_update(self, weight_version: str) -> None:
        self._engine.finish_weight_update(weight_version)

    def confirm(self, policy_version: int, checksum: int) -> None:
        self._engine.confirm(policy_version, checksum)


class RankProcess:
    """Hosts a rank and its part of weight sync."""

    def __init__(self) -> None:
        beat_forever()

    def rendezvous(self) -> str:
        """Where the ranks meet, if this one is rank 0."""
        folder = session.folder()
        return in_folder(folder) if folder else at_socket(ray.util.get_node_ip_address())

    def listener(self) -> Listener:
        """This machine's address and a free port."""
        address = ray.util.get_node_ip_address()
        with socket.socket() as free:
            free.bind((address, 0))
            return address, free.getsockname()[1]

    def start(self, spec: RankSpec, checkpoint: tuple[str, int] | None) -> None:
        """Loads the model and meets the other ranks. checkpoint: to go on from, its folder and policy version."""
        use_threads(spec.training.threads, spec.training.ranks)
        self._spec = spec
        self._rank = self.new_rank(spec)
        if checkpoint:
            self._rank.load(*checkpoint)

    def new_rank(self, spec: RankSpec) -> Rank:
        """The rank to host; benchmarks have one of their own."""
        return Rank(spec)

    def update(self, forests: Sequence[Forest], num_samples: int, num_tokens: int, step_size: StepSize) -> RankReport:
        report = self._rank.update(forests, num_samples, num_tokens, step_size)
        self._rank.release()
        return report

    def connect(
        self, backend: str, engines: Mapping[str, Any], workers_per_engine: int, listener: Listener, timeout: float
    ) -> None:
        """Makes ready to send weights to these engines, and no others. listener: where they meet rank 0 for `nccl`.
        timeout: seconds that a weight sync may take."""
        from launch.processes.weight_clients import CLIENTS
        from trainer.update.weight_sync import sender

        self._client = CLIENTS[backend](engines, workers_per_engine, timeout)
        self._beside = self._client.beside if backend == "nccl" else _at_once
        self._sender: Sender = self._beside(
            lambda: sender(
                backend,
                self._rank,
                self._spec.rank,
                self._client,
                master_address=listener[0],
                master_port=listener[1],
                workers=len(engines) * workers_per_engine,
            )
        )

    def sync_weights(self, policy_version: int) -> int:
        """Sends all weights; the checksum of what was sent."""
        self._client.begin(policy_version)
        checksum = self._beside(self._sender.send)
        self._rank.release()
        return checksum

    def save(self, folder: str, policy_version: int) -> None:
        self._rank.save(folder, policy_version)


def _at_once(work: Callable[[], T]) -> T:
    """Without meeting engines in collectives, no call of theirs can fail unnoticed."""
    return work()
