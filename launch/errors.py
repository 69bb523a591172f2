"""What can go wrong between processes."""

INTERRUPTED = 5
"""Exit status of a run that ended before it was done, and can be gone on with."""


class RemoteError(RuntimeError):
    """A remote call failed or did not end in time; the message names phase and process."""


class ProcessError(RemoteError):
    """Of one process, which another can take the place of. name: "engine 0", "rank 1"."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), self.name)


class ProcessLost(ProcessError):
    """It ended, or does not answer."""


class ProcessFailed(ProcessError):
    """What it was asked to do raised an exception."""


class ClusterLost(RemoteError):
    """Ray itself is gone, and all processes with it."""


class FolderError(RuntimeError):
    """The run's folder cannot be written; the message says for how long that was tried, and what to do."""
