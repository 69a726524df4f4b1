"""What the tests of adapters share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """Every test draws the same numbers, whichever ran before it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
