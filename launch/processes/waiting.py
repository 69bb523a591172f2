"""Waiting for remote calls: never without a limit, and the message names who did not answer."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import ray

from launch.errors import ProcessFailed, ProcessLost, RemoteError
from launch.processes.watch import LOOK, Watch
from trainer.update.rank import UpdateError

OUT_OF_MEMORY = "lower engine.kv_cache_gib or training.micro_batch_tokens"

AFTER_A_FAILURE = 2.0
"""Seconds in which other failures may still come: a process that ends makes those fail that work with it, and may be
noticed after them."""


def wait(
    calls: Mapping[str, Any],
    phase: str,
    timeout: float,
    setting: str,
    since: float | None = None,
    watch: Watch | None = None,
    ranks_only: bool = False,
    to_the_end: bool = False,
) -> dict[str, Any]:
    """The results of remote calls, by the name of the process each was made to.

    calls: name ("rank 0", "engine 1") -> Ray's reference. timeout: seconds for all together. setting: that
    configures the timeout. since: `time.monotonic()` from which on it counts, if not from now. watch: looks after all
    processes meanwhile. ranks_only, to_the_end: see `Watch.look`. The first failure ends the wait, also when the
    others would wait for it for ever.

    Raises RemoteError: ProcessLost or ProcessFailed where it is known of which process.
    """
    results = dict(come(calls, phase, timeout, setting, since, watch, ranks_only, to_the_end))
    return {name: results[name] for name in calls}


def come(
    calls: Mapping[str, Any],
    phase: str,
    timeout: float,
    setting: str,
    since: float | None = None,
    watch: Watch | None = None,
    ranks_only: bool = False,
    to_the_end: bool = False,
) -> Iterator[tuple[str, Any]]:
    """The same results as they come, each with the name of its process. A call may be a stream, of which every part
    is a result; a part comes once, also where the stream is waited for again."""
    names = {reference: name for name, reference in calls.items()}
    pending = list(names)
    deadline = (time.monotonic() if since is None else since) + timeout
    while pending:
        left = max(0.0, deadline - time.monotonic())
        done, pending = ray.wait(pending, timeout=min(left, LOOK) if watch else left)
        failures: list[RemoteError] = []
        for waited in done:
            try:
                reference, more = _next(waited)
                if reference is not None:
                    yield names[waited], _result(reference, names[waited], phase)
                pending += [waited] if more else []
            except RemoteError as error:
                failures.append(error)
        if failures:
            raise _cause([*failures, *_failures(pending, names, phase, AFTER_A_FAILURE)])
        if watch:
            watch.look(phase, ranks_only, to_the_end)
        if not done and time.monotonic() >= deadline:
            late = ", ".join(names[reference] for reference in pending)
            raise RemoteError(
                f"While {phase}: {late} did not answer within {timeout:g} seconds. "
                f"If the work is just slow, raise {setting}."
            )


def _next(waited: Any) -> tuple[Any, bool]:
    """What has come of a call, None if there is nothing more, and whether more may come."""
    if not isinstance(waited, ray.ObjectRefGenerator):
        return waited, False
    reference = next(waited, None)
    return reference, reference is not None


def raise_failures(calls: Mapping[str, Any], phase: str) -> None:
    """Raises RemoteError, as `wait` does, if one of the calls has failed by now; the others go on."""
    names = {reference: name for name, reference in calls.items()}
    if _failures(list(names), names, phase, 0.0):
        raise _cause(_failures(list(names), names, phase, AFTER_A_FAILURE))


def _failures(pending: list[Any], names: Mapping[Any, str], phase: str, timeout: float) -> list[RemoteError]:
    """What fails within these seconds. Parts of a stream are left in it."""
    if not pending:
        return []
    ends = {one.completed() if isinstance(one, ray.ObjectRefGenerator) else one: names[one] for one in pending}
    failures = []
    done, _ = ray.wait([*ends], num_returns=len(ends), timeout=timeout)
    for reference in done:
        try:
            _result(reference, ends[reference], phase)
        except RemoteError as error:
            failures.append(error)
    return failures


def _cause(failures: list[RemoteError]) -> RemoteError:
    """The failure that the others come from: a process that is gone, if there is one."""
    return next((error for error in failures if isinstance(error, ProcessLost)), failures[0])


def _result(reference: Any, name: str, phase: str) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RemoteError):  # of a process that it waited for
            raise error.cause from None
        if isinstance(error.cause, UpdateError):  # it would fail again
            raise RemoteError(f"While {phase}: {name} failed.\n{error.cause}") from error
        raise ProcessFailed(f"While {phase}: {name} failed.\n{error}", name) from error
    except ray.exceptions.RayActorError as error:
        if "creation task" in error.error_msg:
            raise ProcessFailed(f"While {phase}: {name} did not start.\n{error.error_msg}", name) from error
        raise ProcessLost(
            f"While {phase}: the process of {name} ended ({error.error_msg.strip().splitlines()[0]}). "
            f"Out of memory is the usual reason: {OUT_OF_MEMORY}.",
            name,
        ) from error
    except ray.exceptions.OutOfMemoryError as error:
        raise ProcessLost(
            f"While {phase}: Ray ended the process of {name}, because the machine's memory was nearly used up. End "
            f"other programs, or {OUT_OF_MEMORY}.",
            name,
        ) from error
    except ray.exceptions.RayError as error:
        raise ProcessLost(f"While {phase}: {name} was lost.\n{error}", name) from error
