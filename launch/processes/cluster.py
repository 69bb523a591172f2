"""A Ray cluster that is there, or one of our own."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from configs.errors import ConfigError
from configs.schema import Config

LOOPBACK = "127.0.0.1"


@contextmanager
def connected(config: Config) -> Iterator[None]:
    """Connected to `cluster.address`, to RAY_ADDRESS (as in a Ray job), or to a Ray of our own on loopback."""
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        try:
            ray.init(address=address, **settings)
        except ConnectionError as error:
            raise ConfigError(
                f"cluster.address: {address!r} does not answer ({error}). Start a cluster with "
                "`ray start --head`, or leave cluster.address and RAY_ADDRESS out to use this machine alone."
            ) from error
    else:
        # Ray's default of 15 starves engines and ranks beside any other program: one thread that waits for its core
        # holds up all the others at the next barrier.
        os.environ.setdefault("RAY_worker_niceness", "0")
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            # Else Ray would write a token into the home directory, and from then on ask every other cluster for it.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray.init(
            address="local",
            include_dashboard=config.cluster.dashboard,
            dashboard_host=LOOPBACK,
            _node_ip_address=LOOPBACK,
            # Python code is found where this file is, whatever the working directory.
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_python_path())}},
            **settings,
        )
    try:
        yield
    finally:
        ray.shutdown()


def _python_path() -> list[str]:
    inherited = os.environ.get("PYTHONPATH", "")
    return [str(Path(__file__).resolve().parents[2]), *filter(None, inherited.split(os.pathsep))]
