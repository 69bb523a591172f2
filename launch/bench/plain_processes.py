"""The processes of the plain way. As in `launch.processes.actors`, torch comes only when an actor is made."""

from collections.abc import Iterator, Sequence

import ray

from generation.engine import SampleRequest
from generation.groups import Group
from launch.processes.actors import EngineProcess, RankProcess
from trainer.update.rank import Rank, RankSpec


class PlainEngineProcess(EngineProcess):
    """Samples with vLLM's own `n`."""

    @ray.method(num_returns="streaming")
    def stream(self, requests: Sequence[SampleRequest]) -> Iterator[tuple[int, Group]]:
        groups = self._engine.sample_plain(requests)
        # Ray sends to what yields, which an iterator alone has no ear for.
        yield from ((turn, groups[turn]) for turn in range(len(groups)))


class PlainRankProcess(RankProcess):
    """Updates on padded rows."""

    def new_rank(self, spec: RankSpec) -> Rank:
        from launch.bench.plain import DenseRank

        return DenseRank(spec)
