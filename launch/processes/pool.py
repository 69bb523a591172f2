"""The loop's ports made of actors: all engines together, all ranks together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.schema import Config
from generation.engine import SampleRequest
from generation.groups import Group
from launch.processes.waiting import wait
from trainer.run import DType
from trainer.update.forest import Batch
from trainer.update.report import RankReport, together

GRACE = 10.0
"""Seconds more for the ranks than for the engines that they send to: the word about a late engine comes first."""


@dataclass(frozen=True)
class Engines:
    """`trainer.ports.Generator`: all engines together.

    actors: name ("engine 0") -> Ray's handle. timeout: seconds that one call to `sample` may take.
    """

    actors: Mapping[str, Any]
    timeout: float

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        """See `Generator.sample`. Of n engines, engine i samples the requests i, i + n, i + 2n and so on.

        A queue that all engines take from would balance better; but which requests meet in a batch, and with that how
        their sums are rounded, would depend on timing.

        Raises RemoteError: an engine failed, or was not done in time.
        """
        names = list(self.actors)
        shares = {name: requests[index :: len(names)] for index, name in enumerate(names)}
        calls = {name: self.actors[name].sample.remote(share) for name, share in shares.items() if share}
        groups = wait(calls, "sampling", self.timeout, "cluster.sample_timeout")
        turns = (divmod(index, len(names)) for index in range(len(requests)))
        return tuple(groups[names[engine]][turn] for turn, engine in turns)


@dataclass(frozen=True)
class Ranks:
    """`trainer.ports.Learner` and `WeightSync`: all ranks together.

    dtype: of the weights, resolved.
    """

    actors: Mapping[str, Any]
    engines: Mapping[str, Any]
    config: Config
    dtype: DType

    def update(self, batch: Batch) -> RankReport:
        """See `Learner.update`."""
        calls = {
            name: actor.update.remote(forests, batch.num_samples, batch.num_tokens)
            for (name, actor), forests in zip(self.actors.items(), batch.forests, strict=True)
        }
        reports = wait(calls, "updating", self.config.cluster.update_timeout, "cluster.update_timeout")
        return together(list(reports.values()))

    def sync(self, policy_version: int) -> None:
        """See `WeightSync.sync`: ranks send, then every engine confirms version and checksum."""
        phase, timeout = (
            f"syncing the weights of policy version {policy_version}",
            self.config.cluster.publish_timeout,
        )
        sent = {name: actor.sync_weights.remote(policy_version) for name, actor in self.actors.items()}
        checksum = wait(sent, phase, timeout + GRACE, "cluster.publish_timeout")["rank 0"]
        confirmed = {name: e.confirm.remote(policy_version, checksum) for name, e in self.engines.items()}
        wait(confirmed, phase, timeout, "cluster.publish_timeout")

    def save(self, folder: str) -> None:
        """Writes the model in Hugging Face format."""
        calls = {name: actor.save.remote(folder) for name, actor in self.actors.items()}
        wait(calls, "saving the model", self.config.cluster.update_timeout, "cluster.update_timeout")
