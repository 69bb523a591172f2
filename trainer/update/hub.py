"""Models of the Hugging Face hub: one commit, found out and fetched once."""

import json
import subprocess
import sys
from pathlib import Path

FILES = ["*.json", "*.jinja", "*.model", "*.py", "*.tiktoken", "*.txt"]
WEIGHTS = ["*.safetensors", "*.bin"]
"""In the order of preference. Other formats, and what is in folders of a model, are left out."""

FETCH = """
import json, sys
from pathlib import Path
from huggingface_hub import snapshot_download

name, revision, files, weights = json.loads(sys.argv[1])
try:
    for kind in weights:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=[*files, kind], ignore_patterns=["*/*", "consolidated*"]
        )
        revision = Path(folder).name
        if any(Path(folder).glob(kind)):
            break
    print(json.dumps({"folder": folder}))
except Exception as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""


class HubError(RuntimeError):
    """The hub does not give the model; the message says why."""


def fetched(name: str, revision: str | None, limit: float) -> Path:
    """The folder in the hub's cache with a model's files; it is named after their commit.

    From the cache alone where HF_HUB_OFFLINE is set, or the hub does not answer.
    revision: a branch, tag or commit; None for the newest. limit: seconds. Raises HubError.
    """
    given = json.dumps([name, revision, FILES, WEIGHTS])
    command = [sys.executable, "-c", FETCH, given]
    try:  # a process of its own, because a download cannot be ended otherwise
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=limit)
    except subprocess.TimeoutExpired:
        raise HubError(f"fetching it takes longer than cluster.start_timeout, {limit:g} s") from None
    lines = done.stdout.decode().splitlines()
    if not lines:
        raise HubError(f"the process that fetches it ended with exit status {done.returncode}")
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise HubError(" ".join(answer["error"].split()))
    return Path(answer["folder"])
