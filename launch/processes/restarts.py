"""How often a run may replace what it lost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from launch.errors import ProcessFailed, RemoteError
from rewards.errors import RewardLost

HOUR = 3600.0


@dataclass(frozen=True)
class Restart:
    """why: what was lost, and how. at: seconds of the clock that it was noticed at."""

    why: str
    at: float


class Restarts:
    """Of a run.

    limit: in an hour. tell: what is told, in one line, each time. earlier: those before this process began.
    """

    def __init__(
        self,
        limit: int,
        tell: Callable[[str], None],
        earlier: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._tell = tell
        self._clock = clock
        self._earlier = tuple(earlier)
        self._restarts: list[Restart] = []

    @property
    def all(self) -> tuple[str, ...]:
        """What was lost, in order."""
        return (*self._earlier, *(restart.why for restart in self._restarts))

    def count(self, error: RemoteError | RewardLost, remedy: str) -> None:
        """Before each. remedy: what happens now. Raises RemoteError: there were too many."""
        now = self._clock()
        recent = [restart for restart in self._restarts if now - restart.at < HOUR]
        line = " ".join(str(error).splitlines()[0].split())
        if isinstance(error, ProcessFailed) and any(restart.why == line for restart in recent):
            raise error  # it would fail again
        if len(recent) >= self._limit:
            happened = "".join(f"\n  {restart.why}" for restart in recent)
            raise RemoteError(
                f"{error}\nrun.max_restarts allows {self._limit} restarts in an hour"
                + (f", and there were:{happened}" if recent else ".")
            ) from error
        self._restarts.append(Restart(line, now))
        self._tell(f"{line} {remedy}")
