"""The loop's ports made of actors: all engines together, all ranks together."""

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, Literal

from configs.schema import Config
from generation.engine import SampleRequest
from generation.groups import Group
from launch.errors import ProcessError
from launch.processes.restarts import Restarts
from launch.processes.waiting import come, wait
from launch.processes.watch import Watch
from trainer.ports import Collect
from trainer.run import DType
from trainer.update.forest import Batch
from trainer.update.report import RankReport, together

GRACE = 10.0
"""Seconds more for the ranks than for the engines that they send to: the word about a late engine comes first."""


class Ranks:
    """`trainer.ports.Learner`: all ranks together.

    actors: name ("rank 0") -> Ray's handle. dtype: of the weights, resolved. backend: of weight transfer.
    before_update: called when ranks are about to need their memory.
    """

    def __init__(self, actors: Mapping[str, Any], config: Config, dtype: DType, backend: str, watch: Watch) -> None:
        self.actors = actors
        self.dtype = dtype
        self._config = config
        self._backend = backend
        self._watch = watch
        self._connected: Mapping[str, Any] = {}
        self.before_update: Callable[[], None] = lambda: None

    def update(self, batch: Batch) -> RankReport:
        """See `Learner.update`."""
        self.before_update()
        calls = {
            name: actor.update.remote(forests, batch.num_samples, batch.num_tokens, batch.step_size)
            for (name, actor), forests in zip(self.actors.items(), batch.forests, strict=True)
        }
        timeout = self._config.cluster.update_timeout
        reports = wait(calls, "updating", timeout, "cluster.update_timeout", watch=self._watch, ranks_only=True)
        return together(list(reports.values()))

    def send(self, engines: Mapping[str, Any], policy_version: int) -> None:
        """Sends the weights as `policy_version` to all of the engines, which confirm version and checksum.

        Raises RemoteError: ProcessError where it is known of which process. If other ranks, or rank 0, may wait for
        the one that failed in a collective that does not end, it is of rank 0, and tells what failed first.
        """
        phase = f"syncing the weights of policy version {policy_version}"
        timeout, setting = self._config.cluster.publish_timeout, "cluster.publish_timeout"
        try:
            if engines != self._connected:
                self._connect(engines, phase)
            sent = {name: actor.sync_weights.remote(policy_version) for name, actor in self.actors.items()}
            checksum = wait(sent, phase, timeout + GRACE, setting, watch=self._watch)["rank 0"]
        except ProcessError as error:
            meet = self._backend == "nccl" or (self._backend == "ipc" and len(self.actors) > 1)
            if error.name in self.actors or not meet:
                raise
            raise type(error)(str(error), "rank 0") from error
        confirmed = {name: engine.confirm.remote(policy_version, checksum) for name, engine in engines.items()}
        wait(confirmed, phase, timeout, setting, watch=self._watch)

    def save(self, folder: str, policy_version: int) -> None:
        """Writes the model and all that is needed to go on. Raises RemoteError: also if the ranks' weights are not
        those of `policy_version`."""
        calls = {name: actor.save.remote(folder, policy_version) for name, actor in self.actors.items()}
        timeout = self._config.cluster.update_timeout
        wait(calls, "saving", timeout, "cluster.update_timeout", watch=self._watch, ranks_only=True)

    def _connect(self, engines: Mapping[str, Any], phase: str) -> None:
        self._connected = {}
        timeout, setting = self._config.cluster.publish_timeout, "cluster.publish_timeout"
        listener = wait(
            {"rank 0": self.actors["rank 0"].listener.remote()}, phase, timeout, setting, watch=self._watch
        )["rank 0"]
        workers = self._config.engine.tensor_parallel_size
        calls = {
            name: actor.connect.remote(self._backend, engines, workers, listener, timeout)
            for name, actor in self.actors.items()
        }
        wait(calls, phase, timeout + GRACE, setting, watch=self._watch)
        self._connected = dict(engines)


Calls = Mapping[str, tuple[Any, Any]]
"""Name of an engine -> its actor, and Ray's stream of what that was asked."""


class Engines:
    """`trainer.ports.Generator` and `WeightSync`: all engines together. One that is lost or fails is replaced, is
    sent the weights, and samples what was asked of it again: with the same weights and seeds, the same groups. (What
    it was to sample while ranks updated is sampled by the new weights: the ranks hold no others.)

    start: makes the actor of engine number so and so. ranks: None where the engines' own weights are all there is.
    on_group: told of every group that `sample` will return, as soon as it and those before it are there.
    """

    def __init__(
        self,
        number: int,
        start: Callable[[int], Any],
        config: Config,
        ranks: Ranks | None,
        watch: Watch,
        restarts: Restarts,
    ) -> None:
        self._start = start
        self._config = config
        self._ranks = ranks
        self._watch = watch
        self._restarts = restarts
        self._wanted = 0
        self.actors: dict[str, Any] = {}
        self._versions: dict[str, int | None] = {}  # None: still starting, or its weights are no version's
        self._asleep = False
        self.on_group: Callable[[Group], None] = lambda _: None
        for index in range(number):
            self._begin(f"engine {index}")

    def await_start(self) -> None:
        """Returns when all have loaded the model."""
        starting = [name for name, version in self._versions.items() if version is None]
        calls = {name: self.actors[name].ready.remote() for name in starting}
        timeout = self._config.cluster.start_timeout
        wait(calls, "starting the engines", timeout, "cluster.start_timeout", watch=self._watch)
        for name in starting:
            self._watch.ready(name)
            self._versions[name] = 0

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        """See `Sampler.sample`. Requests are dealt to engines by what they are expected to cost (`dealt`).

        A queue that all engines take from would even out engines of different speed as well; but which requests meet
        in a batch, and with that how their sums are rounded, would depend on timing, and a batch would run dry
        whenever it is waited for.

        Raises RemoteError: too many engines were lost, or one was not done in time.
        """
        return self._collect(requests, self._ask(requests, {}), self.on_group, to_the_end=False)

    def begin(self, requests: Sequence[SampleRequest]) -> Collect:
        """See `Generator.begin`. It is shared out as in `sample`, and `Collect` raises what that does; to wait for
        engines that start anew is given up when the run is interrupted (`Interrupted`)."""
        calls = self._ask(requests, {})

        def collect(policy_version: int) -> tuple[Group, ...]:
            self._wanted = policy_version
            return self._collect(requests, calls, lambda _: None, to_the_end=True)

        return collect

    def _ask(self, requests: Sequence[SampleRequest], calls: Calls) -> Calls:
        """Every engine's call for its share, where it has one: those of `calls`, if they are to the same actor."""
        shares = self._shares(requests)
        return {
            name: calls[name]
            if name in calls and calls[name][0] is self.actors[name]
            else (self.actors[name], self.actors[name].stream.remote([requests[index] for index in share]))
            for name, share in shares.items()
            if share
        }

    def _shares(self, requests: Sequence[SampleRequest]) -> dict[str, list[int]]:
        """The places of every engine's requests."""
        return dict(zip(self.actors, dealt([one.expected_tokens for one in requests], len(self.actors)), strict=True))

    def _collect(
        self,
        requests: Sequence[SampleRequest],
        calls: Calls,
        on_group: Callable[[Group], None],
        to_the_end: bool,
    ) -> tuple[Group, ...]:
        """The groups, in order. Who is lost is replaced, gets the weights that are wanted now, and is asked again;
        what it has answered stays."""
        timeout, setting = self._config.cluster.sample_timeout * self._steps(requests), "cluster.sample_timeout"
        places = self._shares(requests)
        groups: dict[int, Group] = {}
        told = 0
        while len(groups) < len(requests):
            pending = {name: stream for name, (_, stream) in calls.items()}
            try:
                parts = come(pending, "sampling", timeout, setting, watch=self._watch, to_the_end=to_the_end)
                for name, (turn, group) in parts:
                    groups.setdefault(places[name][turn], group)
                    while told in groups:
                        on_group(groups[told])
                        told += 1
            except ProcessError as error:
                self._replace(error)
                self.sync(self._wanted)
                calls = self._ask(requests, calls)
        return tuple(groups[index] for index in range(len(requests)))

    def sync(self, policy_version: int) -> None:
        """See `WeightSync.sync`. If one engine needs the weights, all get them: they are sent together."""
        self._wanted = policy_version
        while any(version != policy_version for version in self._versions.values()):
            try:
                self.await_start()
                if self._ranks and set(self._versions.values()) != {policy_version}:
                    self._wake_up("weights")
                    self._ranks.send(self.actors, policy_version)
                    self._wake_up("kv_cache")
                    self._asleep = False
                    self._versions = dict.fromkeys(self._versions, policy_version)
            except ProcessError as error:
                self._replace(error)

    def sleep(self) -> None:
        """They give up their GPUs' memory until the next `sync`, which sends weights to all."""
        while set(self._versions.values()) != {None}:
            try:
                self._call("sleep")
                self._versions = dict.fromkeys(self._versions, None)
            except ProcessError as error:
                self._replace(error)
                self.await_start()
        self._asleep = True

    def _wake_up(self, what: Literal["weights", "kv_cache"]) -> None:
        """Those that sleep; others have it already."""
        if self._asleep:
            self._call("wake_up", what)

    def _call(self, method: str, *arguments: Any) -> None:
        calls = {name: getattr(actor, method).remote(*arguments) for name, actor in self.actors.items()}
        timeout, setting = self._config.cluster.publish_timeout, "cluster.publish_timeout"
        wait(calls, f"{method.replace('_', ' ')} of the engines", timeout, setting, watch=self._watch)

    def _steps(self, requests: Sequence[SampleRequest]) -> float:
        """How many usual steps the requests are, at least one: evaluations and rescues can be more."""
        usual = self._config.sampling
        samples = sum(request.num_generations for request in requests)
        return max(1.0, samples / (usual.prompts_per_step * usual.num_generations))

    def _replace(self, error: ProcessError) -> None:
        """Starts another engine in the place of the one that the error is of."""
        if error.name not in self.actors:
            raise error
        self._restarts.count(error, f"Another {error.name} takes its place.")
        self._watch.end(error.name)
        self._begin(error.name)

    def _begin(self, name: str) -> None:
        self.actors[name] = self._start(int(name.split()[1]))
        self._versions[name] = None
        self._watch.add(name, self.actors[name])


def dealt(costs: Sequence[int], engines: int) -> list[list[int]]:
    """The places that every engine gets: the dearest first, each to the engine that has least to do; at most 4/3 of
    the least possible time (Graham 1969, "Bounds on multiprocessing timing anomalies").

    costs: expected; 0 where it is not known, which counts as the mean of those known.
    """
    known = [cost for cost in costs if cost]
    usual = sum(known) / len(known) if known else 1.0
    expected = [cost or usual for cost in costs]
    loads = [(0.0, engine) for engine in range(engines)]
    shares: list[list[int]] = [[] for _ in range(engines)]
    for place in sorted(range(len(costs)), key=lambda place: -expected[place]):
        load, engine = heappop(loads)
        shares[engine].append(place)
        heappush(loads, (load + expected[place], engine))
    return shares
