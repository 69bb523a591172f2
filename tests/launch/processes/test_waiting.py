"""What a remote call that fails, or does not end, is called."""

import time
from typing import Any

import pytest
import ray

from launch.errors import RemoteError
from launch.processes import waiting


def said(monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    """The message for a call to rank 1 that ends with `error`."""

    def failing(reference: object) -> Any:
        raise error

    monkeypatch.setattr(ray, "wait", lambda references, timeout, num_returns=1: (references, []))
    monkeypatch.setattr(ray, "get", failing)
    with pytest.raises(RemoteError) as raised:
        waiting.wait({"rank 1": object()}, "updating", 5, "cluster.update_timeout")
    return str(raised.value)


def test_a_process_ended_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    message = said(monkeypatch, ray.exceptions.OutOfMemoryError("1 worker(s) were killed"))
    assert message.startswith("While updating: Ray ended the process of rank 1, because the machine's memory was")
    assert "training.micro_batch_tokens" in message


def test_a_machine_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    message = said(monkeypatch, ray.exceptions.NodeDiedError("the node died"))
    assert message == "While updating: rank 1 was lost.\nthe node died"


def test_what_a_process_says_of_another_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = RemoteError("While syncing the weights of policy version 2: engine 0 did not answer within 5 seconds.")
    error = ray.exceptions.RayTaskError("sync_weights", "Traceback ...", inner)
    assert said(monkeypatch, error) == str(inner)
    error = ray.exceptions.RayTaskError("update", "Traceback ...", ValueError("no"))
    assert said(monkeypatch, error).startswith("While updating: rank 1 failed.\n")


def test_time_counts_from_when_the_work_began(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[float] = []

    def late(references: list[object], timeout: float) -> tuple[list[object], list[object]]:
        left.append(timeout)
        time.sleep(timeout)
        return [], references

    monkeypatch.setattr(ray, "wait", late)
    calls = {"engine 0": object(), "engine 1": object()}
    with pytest.raises(RemoteError, match=r"While sampling: engine 0, engine 1 did not answer within 5 seconds\. If"):
        waiting.wait(calls, "sampling", 5, "cluster.sample_timeout", since=time.monotonic() - 4)
    assert left[0] == pytest.approx(1, abs=0.5)
