"""What counts as the very subject that was meant."""

import pytest

from studio.sketch.judge import NOTHING, OWN, is_instance

ROBOT = {
    "subject": "robot",
    "colour": "pink",
    "pattern": "striped",
    "pattern colour": "teal",
}
CAT = {"subject": "cat", "colour": "blue", "pattern": "plain", "pattern colour": NOTHING}


@pytest.mark.parametrize(
    ("truth", "read", "right"),
    [
        (ROBOT, {}, True),
        (ROBOT, {"colour": "teal", "pattern colour": "pink"}, True),  # the same stripes
        (ROBOT, {"colour": OWN}, True),
        (ROBOT, {"pattern colour": "green"}, False),
        (ROBOT, {"pattern": "dotted"}, False),
        (ROBOT, {"subject": "cat"}, False),
        (CAT, {}, True),
        (CAT, {"colour": OWN}, False),
        (CAT, {"pattern": "striped"}, False),
    ],
)
def test_an_instance_is_a_subject_in_its_paint(
    truth: dict[str, str], read: dict[str, str], right: bool
) -> None:
    assert is_instance(truth | read, truth) is right
