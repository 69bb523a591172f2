"""Whole runs, in processes of their own, as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COHORT = str(Path(sys.executable).with_name("cohort"))
MARK = "COHORT_TEST_RUN"
"""Environment variable that every process of a run inherits, its Ray's too."""


@dataclass(frozen=True)
class Run:
    """A process that was started, and the mark of all that come from it."""

    process: "subprocess.Popen[str]"
    mark: str

    def finish(self, timeout: float = 240) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def left_behind(self, patience: float = 15) -> list[str]:
        """Command lines of the run's processes that have not ended after a while."""
        deadline = time.monotonic() + patience
        while (left := processes(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.3)
        return list(left.values())


@contextmanager
def started(*command: str, cwd: Path, **environment: str) -> Iterator[Run]:
    """Starts the command in a process group of its own; leaving, all processes that come from it are ended."""
    mark = uuid.uuid4().hex
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "VLLM_"))}
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=inherited | {"HF_HUB_OFFLINE": "1", MARK: mark} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As in a terminal: whoever runs the tests in the background ignores SIGINT, and what it starts does too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield Run(process, mark)
    finally:
        for pid in processes(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def cohort(*arguments: str, cwd: Path, **environment: str) -> Any:
    """`cohort ARGUMENTS`, started."""
    return started(COHORT, *arguments, cwd=cwd, **environment)


def processes(mark: str) -> dict[int, str]:
    """Process id -> command line, of all that inherited the mark and are not zombies."""
    found = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found[int(folder.name)] = command
    return found


def write_config(path: Path, model: str, **sections: Mapping[str, Any]) -> str:
    """A recipe for a tiny model: small, quick and in float32. The path as text."""
    values: dict[str, Any] = {
        "model": {"path": model, "dtype": "float32"},
        "sampling": {"max_completion_length": 4, "num_generations": 32, "prompts_per_step": 4},
        "engine": {"threads": 1},
        "training": {"learning_rate": 2e-3, "threads": 1},
        "run": {"directory": str(path.parent / "runs")},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
