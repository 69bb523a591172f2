"""How many threads an engine or a rank computes with."""

import os


def use_threads(configured: int | None, processes: int) -> None:
    """Settles the threads of what this process imports from now on: torch reads OMP_NUM_THREADS on import. Ray would
    give every actor one thread.

    configured: `engine.threads` or `training.threads`; None shares out the cores that this process may use (those of
    its own machine, wherever the command was started). processes: how many there are of its kind, on all machines
    together. Engines and ranks take turns: each kind gets all cores.
    """
    threads = configured or max(1, len(os.sched_getaffinity(0)) // processes)
    os.environ["OMP_NUM_THREADS"] = str(threads)
