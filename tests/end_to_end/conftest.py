"""What the whole runs share."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.kept import Kept, keeping


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """Processes for runs that do not test the start and the end of processes."""
    with keeping(tmp_path_factory.mktemp("kept")) as kept:
        yield kept
