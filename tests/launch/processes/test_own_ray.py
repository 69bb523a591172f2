"""What Linux says of the processes of a real Ray."""

import os
import signal
import time
from typing import Any

import pytest
import ray

from launch.errors import ProcessLost
from launch.processes import own_ray, waiting
from launch.processes.cluster import connected
from launch.processes.watch import SILENT, Watch
from tests.launch import samples


def test_without_a_ray_of_our_own_nothing_is_lost_or_stopped() -> None:
    assert own_ray.lost() is None
    assert own_ray.stopped_workers() == set()


@pytest.mark.timeout(120)
def test_a_process_that_is_stopped_before_its_first_word_is_lost_like_any_other() -> None:
    class Stopped:
        def __init__(self) -> None:
            os.kill(os.getpid(), signal.SIGSTOP)

        def ready(self) -> None: ...

    with connected(samples.config()):
        actor: Any = ray.remote(Stopped).options(num_cpus=0).remote()
        watch = Watch()
        watch.add("engine 0", actor)
        deadline = time.monotonic() + 60
        while not own_ray.stopped_workers():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        began = time.monotonic()
        with pytest.raises(ProcessLost, match="engine 0") as lost:
            waiting.wait({"engine 0": actor.ready.remote()}, "starting", 100, "cluster.start_timeout", watch=watch)
        assert lost.value.name == "engine 0"
        assert time.monotonic() - began < SILENT + 10
        assert own_ray.stopped_workers() == set()
        assert own_ray.lost() is None
