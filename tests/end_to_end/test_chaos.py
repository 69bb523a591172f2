"""A few of the faults of `make chaos`: what one process takes, what all take, and what none does."""

import pytest

from tests.chaos.campaign import campaign
from tests.chaos.faults import KINDS, Fault

CHOSEN = (
    ("SIGKILL, engine", "syncing"),
    ("SIGSTOP, rank", "updating"),
    ("full disk for 5 s", "saving"),
)


@pytest.mark.end_to_end
@pytest.mark.timeout(900)
def test_a_run_that_is_broken_again_and_again_ends_as_if_nothing_had_happened() -> None:
    kinds = {kind.name: kind for kind in KINDS}
    faults = [Fault(number, kinds[name], phase, 0.05, 0.5) for number, (name, phase) in enumerate(CHOSEN)]
    verdict = campaign(faults, print)
    assert verdict.problem == ""
    assert [outcome.problem for outcome in verdict.outcomes] == [""] * len(faults)
