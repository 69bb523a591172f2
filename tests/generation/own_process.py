"""What vLLM does to the process that an engine is started in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def undone() -> Iterator[None]:
    """It binds threads to cores and sets environment variables: other tests get the process back as it was."""
    cores, environment, threads = os.sched_getaffinity(0), dict(os.environ), torch.get_num_threads()
    yield
    os.sched_setaffinity(0, cores)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
