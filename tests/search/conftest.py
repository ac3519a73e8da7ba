from collections.abc import Iterator

import pytest

from overread.cluster.session import Resources, session


@pytest.fixture(scope="session")
def cluster() -> Iterator[Resources]:
    """One private Ray cluster for all tests; `session` takes the one that is there."""
    with session(address="local", num_cpus=4) as resources:
        yield resources
