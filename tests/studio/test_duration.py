"""Lengths of time, as one says them."""

import pytest

from studio.duration import format_duration

HOUR = 3600


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 s"),
        (89, "89 s"),
        (100, "2 min"),
        (89 * 60, "89 min"),
        (2 * HOUR + 600, "2 h 10 min"),
        (47 * HOUR, "47 h 0 min"),
        (96 * HOUR, "4 days"),
    ],
)
def test_it_is_told_in_units_that_will_do(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said
