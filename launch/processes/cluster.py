"""A Ray cluster that is there, or one of our own."""

import atexit
import gc
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]

from configs.errors import ConfigError
from configs.schema import Config
from launch.errors import RemoteError
from launch.limited import limited
from launch.processes import guard, own_ray
from launch.processes.address import cluster_address
from launch.processes.guard import MARK
from launch.processes.session import environment, session, unheard
from launch.processes.stuck import ended_if_stuck

LOOPBACK = "127.0.0.1"

QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}

ALIVE = GcsNodeInfo.GcsNodeState.Value("ALIVE")

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 10.0
"""That a cluster has to accept a connection, and to answer."""

TRIES = 4
"""To start a Ray of our own."""

SHUTDOWN_SECONDS = 10.0
"""That Ray has to end. What is left of a Ray of our own is killed then."""


@contextmanager
def connected(config: Config) -> Iterator[None]:
    """Connected to `cluster.address`, to RAY_ADDRESS (as in a Ray job), or to a Ray of our own on loopback.

    Raises ConfigError: the address is none, or does not answer. Raises RemoteError: Ray does not start here.
    """
    address = cluster_address(config)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _theirs(address) if address else _ours(config), _frozen():
        yield


def gpus(address: str) -> int:
    """GPUs of all machines of the cluster, before anything connects to it.

    Raises ConfigError: it does not answer.
    """
    with _must_answer(address):
        nodes = limited(lambda: _client(address).get_all_node_info(timeout=ANSWER_SECONDS), 2 * ANSWER_SECONDS)
    alive = [node for node in nodes.values() if node.state == ALIVE]
    return int(sum(node.resources_total["GPU"] for node in alive if "GPU" in node.resources_total))


@contextmanager
def _frozen() -> Iterator[None]:
    """Inside, Python's garbage collector leaves alone what was there before: libraries and data, which stay. A step
    brings it hundreds of thousands of new objects, and it would look through all the old ones several times."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _theirs(address: str) -> Iterator[None]:
    with _must_answer(address):
        _client(address)
        ray.init(address=address, **QUIET)
    try:
        yield
    finally:
        _shut_down()


@contextmanager
def _must_answer(address: str) -> Iterator[None]:
    """Raises ConfigError in the place of what tells that no cluster answers there."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"cluster.address: {address!r} does not answer ({error}). Start a cluster with `ray start --head`, or "
            "leave cluster.address and RAY_ADDRESS out to use this machine alone."
        ) from error


def _client(address: str) -> Any:
    """Of the cluster's store. Raises what tells that no cluster answers there, where `ray.init` tries for minutes."""
    found = services.canonicalize_bootstrap_address(address) if address == "auto" else address
    assert found is not None
    host, _, port = found.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    try:
        return limited(lambda: GcsClient(address=found), ANSWER_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"something listens there, and said nothing for {ANSWER_SECONDS:g} seconds") from None


@contextmanager
def _ours(config: Config) -> Iterator[None]:
    with session() as folder, ended_if_stuck(own_ray.lost):
        try:
            _start(config, folder)
            yield
        finally:
            _shut_down()


def _start(config: Config, folder: Path) -> None:
    """Starts Ray; again if it fails, as it does where the machine is so busy that its own limits of half a minute are
    too short."""
    for left in reversed(range(TRIES)):
        # Ray waits for some of its parts without a limit. They end, and with them the wait.
        limit = threading.Timer(config.cluster.start_timeout, guard.kill, [str(folder)])
        limit.daemon = True
        limit.start()
        try:
            _init(config, folder)
            return
        except Exception as error:  # it is what Ray raises
            if not left or not limit.is_alive():
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise RemoteError(
                    f"While starting Ray: it did not start ({reason}). The machine may be too busy, or out of memory "
                    "or of room for Ray's files: end other programs, and try again."
                ) from error
            _shut_down()
            guard.kill(str(folder))
        finally:
            limit.cancel()


def _init(config: Config, folder: Path) -> None:
    with environment(_settings(folder)), _on_loopback(), unheard():
        RayConfig.initialize("")  # Ray has read RAY_AUTH_MODE on import
        ray.init(
            address="local",
            include_dashboard=config.cluster.dashboard,
            dashboard_host=LOOPBACK,
            _node_ip_address=LOOPBACK,
            _temp_dir=str(folder / "ray"),
            # Python code is found where this file is, whatever the working directory.
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_python_path())}},
            **QUIET,
        )


def _settings(folder: Path) -> dict[str, str]:
    """Environment variables of Ray's processes, and of all that they start."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    settings = {
        MARK: str(folder),
        "SPT_NOENV": "1",  # Ray names its processes; without this over the environment that shows the mark
        "TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        # Servers that ask nobody for the token: -1 is no port, so they are not opened.
        "AUTOSCALER_METRIC_PORT": "-1",
        "DASHBOARD_METRIC_PORT": "-1",
        "RAY_enable_metrics_collection": "0",
        # What engines and ranks listen on, as far as it is not in the folder.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "VLLM_HOST_IP": LOOPBACK,
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    }
    defaults = {
        # Ray's own of 15 starves engines and ranks beside any other program: one thread that waits for its core holds
        # up all the others at the next barrier.
        "RAY_worker_niceness": "0",
        # What torch compiles is worth keeping; it would be in TMPDIR.
        "TORCHINDUCTOR_CACHE_DIR": f"{caches}/cohort/torchinductor",
    }
    if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        # Else Ray would write a token into the home directory, and from then on ask every other cluster for it.
        defaults["RAY_AUTH_TOKEN"] = _token()
    return settings | {name: os.environ.get(name) or value for name, value in defaults.items()}


@cache
def _token() -> str:
    """One for all of this process: Ray keeps the first that it reads."""
    return secrets.token_hex(32)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Inside, Ray takes 127.0.0.1 for this machine's address. Else it would look up the network card's and listen
    there: only where it allows no clusters, as on Windows, it does not. It reads that variable on import."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _shut_down() -> None:
    node: Any = ray._private.worker._global_node
    for processes in node.all_processes.values() if node else ():
        for info in processes:
            # They do not hear SIGTERM, and Ray would wait a second for each before it kills it.
            info.process.terminate = info.process.kill
    try:
        limited(ray.shutdown, SHUTDOWN_SECONDS)
    except TimeoutError:
        atexit.unregister(ray.shutdown)  # it would wait again


def _python_path() -> list[str]:
    inherited = os.environ.get("PYTHONPATH", "")
    return [str(Path(__file__).resolve().parents[2]), *filter(None, inherited.split(os.pathsep))]
