from dataclasses import replace

import pytest

from launch.run import exit_status
from tests.launch.samples import result
from trainer.ending import Stop, Target


@pytest.mark.parametrize(
    ("stop", "target", "status"),
    [
        (Stop.TARGET, Target.REACHED, 0),
        (Stop.MAX_STEPS, Target.NONE, 0),
        (Stop.MAX_STEPS, Target.REACHED, 0),
        (Stop.MAX_STEPS, Target.MISSED, 4),
        (Stop.MAX_SECONDS, Target.MISSED, 4),
        (Stop.CANNOT_LEARN, Target.MISSED, 3),
        (Stop.CANNOT_LEARN, Target.NONE, 3),
    ],
)
def test_the_exit_status_follows_from_why_the_run_stopped(stop: Stop, target: Target, status: int) -> None:
    assert exit_status(replace(result(), stop=stop, target=target)) == status
