"""`cohort bench generation`: forking against vLLM's own `n`, in one engine."""

from collections.abc import Callable, Iterator
from functools import partial

from generation.engine import Engine, SampleRequest, seed_of
from launch.bench.measure import OURS, PLAIN, WARM_UP, Measurement, Stopwatch, counted, in_turn
from launch.bench.sweep import POLICIES, Sweep
from launch.engine_spec import lone_engine_spec
from launch.prepare import Prepared

Phase = Callable[[str], None]


def measure(sweep: Sweep, prepared: Prepared, phase: Phase) -> Iterator[Measurement]:
    """Every policy and group size in turn, in one engine in this process."""
    phase("starting the engine")
    engine = Engine(lone_engine_spec(prepared))
    ways = {OURS: engine.sample, PLAIN: engine.sample_plain}

    def once(way: str, policy: str, size: int, repeat: int) -> Measurement:
        asked = requests(sweep, prepared, policy, size, repeat)
        engine.reset_prefix_cache()
        watch = Stopwatch()
        groups = ways[way](asked)
        seconds, peak = watch.read()
        return Measurement(
            way=way,
            policy=policy,
            repeat=repeat,
            seconds=seconds,
            peak_mib=peak,
            phases={"sample": seconds},
            details={},
            **counted(groups),
        )

    phase("warming up")
    for way in ways:
        once(way, sweep.policies[0], min(sweep.sizes), WARM_UP)
    for policy, size in sweep.cells():
        phase(f"sampling {sweep.prompts} × {size}, {policy}")
        yield from in_turn({way: partial(once, way, policy, size) for way in ways}, sweep.repeats)


def requests(sweep: Sweep, prepared: Prepared, policy: str, size: int, repeat: int) -> tuple[SampleRequest, ...]:
    """A group of every prompt; each repeat has random numbers of its own."""
    return tuple(
        SampleRequest(
            prompt, size, POLICIES[policy], seed_of(sweep.config.seed, "bench", policy, size, repeat, prompt.id)
        )
        for prompt in prepared.task.prompts[: sweep.prompts]
    )
