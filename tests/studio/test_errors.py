"""What users are told, across processes too."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.errors import BadInput
from studio.picture import load_picture
from studio.requests.shot import Shot


def refused_picture() -> None:
    load_picture(Path("none.png"))


def refused_shot() -> None:
    Shot("a cat", steps=0).check()


@pytest.mark.parametrize("refused", [refused_picture, refused_shot])
def test_a_refusal_comes_whole_out_of_another_process(refused: Callable[[], None]) -> None:
    with pytest.raises(BadInput) as raised:
        refused()
    copy = pickle.loads(pickle.dumps(raised.value))  # as a pool of processes sends it
    assert type(copy) is type(raised.value)
    assert str(copy) == str(raised.value) and vars(copy) == vars(raised.value)
