"""Which Ray a run uses: one that runs already, or its own."""

import os
import re

from configs.errors import ConfigError
from configs.schema import Config

FORM = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})")

REMEDY = (
    "It must be HOST:PORT, as `ray start --head` prints it (port 6379 if none was chosen), auto for a cluster of "
    "this machine, or local for a Ray of the run's own. Correct it, or leave cluster.address and RAY_ADDRESS out."
)


def cluster_address(config: Config) -> str | None:
    """HOST:PORT (or auto) of `cluster.address`, else of RAY_ADDRESS, as in a Ray job; None for a Ray of our own.

    Raises ConfigError: it is no such address.
    """
    setting, address = "cluster.address", config.cluster.address
    if not address:
        setting, address = "RAY_ADDRESS", os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        return None
    if address == "auto":
        return address
    if address.startswith("ray://"):
        raise ConfigError(f"{setting}: {address!r} is of a Ray client's server, which Cohort does not use. {REMEDY}")
    if address.startswith(("http://", "https://")):
        raise ConfigError(f"{setting}: {address!r} is of a dashboard, where jobs are submitted. {REMEDY}")
    found = FORM.fullmatch(address)
    if not found or not 0 < int(found["port"]) < 65536:
        raise ConfigError(f"{setting}: {address!r} is not the address of a cluster. {REMEDY}")
    return address
