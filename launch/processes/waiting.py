"""Waiting for remote calls: never without a limit, and the message names who did not answer."""

import time
from collections.abc import Mapping
from typing import Any

import ray

from launch.errors import RemoteError

OUT_OF_MEMORY = "lower engine.kv_cache_gib or training.micro_batch_tokens"


def wait(
    calls: Mapping[str, Any], phase: str, timeout: float, setting: str, since: float | None = None
) -> dict[str, Any]:
    """The results of remote calls, by the name of the process each was made to.

    calls: name ("rank 0", "engine 1") -> Ray's reference. timeout: seconds for all together. setting: that
    configures the timeout. since: `time.monotonic()` from which on it counts, if not from now. The first failure ends
    the wait, also when the others would wait for it for ever.

    Raises RemoteError.
    """
    names = {reference: name for name, reference in calls.items()}
    pending, results = list(names), {}
    deadline = (time.monotonic() if since is None else since) + timeout
    while pending:
        done, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
        for reference in done:
            results[names[reference]] = _result(reference, names[reference], phase)
        if not done:
            late = ", ".join(names[reference] for reference in pending)
            raise RemoteError(
                f"While {phase}: {late} did not answer within {timeout:g} seconds. "
                f"If the work is just slow, raise {setting}."
            )
    return {name: results[name] for name in calls}


def _result(reference: Any, name: str, phase: str) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RemoteError):  # of a process that it waited for
            raise RemoteError(str(error.cause)) from error
        raise RemoteError(f"While {phase}: {name} failed.\n{error}") from error
    except ray.exceptions.RayActorError as error:
        if "creation task" in error.error_msg:
            raise RemoteError(f"While {phase}: {name} did not start.\n{error.error_msg}") from error
        raise RemoteError(
            f"While {phase}: the process of {name} ended ({error.error_msg.strip().splitlines()[0]}). "
            f"Out of memory is the usual reason: {OUT_OF_MEMORY}."
        ) from error
    except ray.exceptions.OutOfMemoryError as error:
        raise RemoteError(
            f"While {phase}: Ray ended the process of {name}, because the machine's memory was nearly used up. End "
            f"other programs, or {OUT_OF_MEMORY}."
        ) from error
    except ray.exceptions.RayError as error:
        raise RemoteError(f"While {phase}: {name} was lost.\n{error}") from error
