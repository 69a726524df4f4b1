"""Files and texts as strangers make them, for tests that a value comes out, or a sentence."""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,  # a run fails for what was changed, and not by what was drawn this time
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ODD = (None, True, -1, 0, 2.5, math.inf, math.nan, 2**70, "", "a", "\0", "\ud800", "9" * 5000)
ODD += ("../../x", "/nowhere", [], {}, [[]], [None], [1, "a"], {"": {}}, {"name": 3}, "x" * 20_000)


@contextmanager
def soon(seconds: int = 20) -> Iterator[None]:
    """Fail where the block takes so much of the processor, or waits; it takes a thousandth."""

    def late(*_: object) -> None:
        raise AssertionError(f"it was not done after {seconds} s")

    before = {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(600)  # however busy the machine is
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


@st.composite
def spoiled(draw: st.DrawFn, sound: Any) -> Any:
    """A value of JSON or TOML in which up to two parts are others, or are not there."""
    found = deepcopy(sound)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(found))
        inside, key = draw(st.sampled_from(places))
        if draw(st.integers(0, 5)) == 0:
            del inside[key]
        else:
            inside[key] = deepcopy(draw(st.sampled_from(ODD)))
        if not found:
            break
    return found


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or mapping in a value, with every place in it."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inside:
        yield value, key
        if isinstance(one, dict | list):
            yield from _places(one)


@st.composite
def bytes_like(draw: st.DrawFn, sound: bytes) -> bytes:
    """A file with some bytes replaced, and perhaps cut off."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)
