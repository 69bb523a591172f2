"""What can go wrong between processes."""


class RemoteError(RuntimeError):
    """A remote call failed or did not end in time; the message names phase and process."""
