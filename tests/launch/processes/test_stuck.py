import subprocess
import sys
import time

PROGRAM = """
import time
from launch.processes.stuck import ended_if_stuck

start = time.monotonic()
with ended_if_stuck(lambda: {lost}, limit=1.0):
    time.sleep({inside})
time.sleep(3)
"""


def run(lost: str, inside: float) -> tuple[int, str, float]:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(lost=lost, inside=inside)],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr, time.monotonic() - start


def test_who_waits_for_a_ray_that_is_gone_is_ended() -> None:
    status, said, seconds = run("'process raylet has ended'", 50)
    assert (status, seconds < 30) == (5, True)
    assert said.startswith("Ray's process raylet has ended, and this process has waited for it for 1 seconds.")


def test_who_leaves_in_time_is_not() -> None:
    assert run("'process raylet has ended'", 0.5)[:2] == (0, "")


def test_a_ray_that_comes_back_was_not_lost() -> None:
    """As a process that was stopped for a while."""
    assert run("None if int(time.monotonic() - start) % 2 else 'process raylet is stopped'", 6)[:2] == (0, "")
