"""What a remote call that fails, or does not end, is called."""

import os
import signal
import time
from typing import Any

import pytest
import ray

from launch.errors import ProcessFailed, ProcessLost, RemoteError
from launch.processes import waiting
from launch.processes.cluster import connected
from tests.launch import samples


def said(monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    """The message for a call to rank 1 that ends with `error`."""

    def failing(reference: object) -> Any:
        raise error

    monkeypatch.setattr(ray, "wait", lambda references, timeout, num_returns=1: (references, []))
    monkeypatch.setattr(ray, "get", failing)
    with pytest.raises(RemoteError) as raised:
        waiting.wait({"rank 1": object()}, "updating", 5, "cluster.update_timeout")
    return str(raised.value)


def test_parts_of_streams_come_as_they_are_made_and_none_is_lost() -> None:
    """Real streams of real actors. One ends by an exception and one by a kill; what the other makes stays in its
    stream for whoever waits again."""

    class Slow:
        @ray.method(num_returns="streaming")
        def stream(self, parts: int, end: str) -> Any:
            for part in range(parts):
                yield part
                time.sleep(0.5)
            if end == "raises":
                raise ValueError("no")
            if end == "killed":
                os.kill(os.getpid(), signal.SIGKILL)

    def parts(calls: dict[str, Any]) -> Any:
        return waiting.come(calls, "sampling", 60, "cluster.sample_timeout")

    with connected(samples.config()):
        slow = ray.remote(Slow).options(num_cpus=0)
        first, second = slow.remote(), slow.remote()
        calls = {"engine 0": first.stream.remote(3, ""), "engine 1": second.stream.remote(0, "")}
        began = time.monotonic()
        times = [(name, part, time.monotonic() - began) for name, part in parts(calls)]
        assert [(name, part) for name, part, _ in times] == [("engine 0", part) for part in range(3)]
        assert times[-1][2] - times[0][2] > 0.8  # and not all at the end
        assert [*parts(calls)] == []  # nothing comes twice
        for end, error in (("raises", ProcessFailed), ("killed", ProcessLost)):
            calls = {"engine 0": first.stream.remote(6, ""), "engine 1": second.stream.remote(2, end)}
            seen: list[Any] = []
            with pytest.raises(error, match="engine 1"):
                seen.extend(parts(calls))  # keeps what comes before
            assert [part for name, part in seen if name == "engine 1"] == [0, 1]
            assert ("engine 0", 5) not in seen
            seen += parts({"engine 0": calls["engine 0"]})
            assert [part for name, part in seen if name == "engine 0"] == [*range(6)]


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
