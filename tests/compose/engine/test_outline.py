"""A schedule told by the adapters' headers is the one that their weights tell."""

import subprocess
import sys

import pytest

from compose import CMLoRA, Composite, KLoRA, Merge, Method, NeedsWeights, Switch, outline, schedule
from studio.requests.shot import Shot
from tests.compose.conftest import small

LAYERS = (
    "unet.down_blocks.2.attentions.0.to_q",
    "unet.mid_block.attentions.0.to_q",
    "unet.up_blocks.0.attentions.0.to_q",
    "unet.up_blocks.0.attentions.1.to_q",
)


@pytest.fixture(scope="module")
def shot(tmp_path_factory: pytest.TempPathFactory) -> Shot:
    """Of three adapters' files that change different layers."""
    folder = tmp_path_factory.mktemp("adapters")
    files = [
        small({layer: (4, 6) for layer in LAYERS[at:]}, seed=at).save(folder / f"{at}.safetensors")
        for at in range(3)
    ]
    return Shot("", steps=9, adapters=tuple((str(file), 0.5) for file in files))


@pytest.mark.parametrize(
    "method",
    [
        Merge(blocks=("mid_block=0.5", "2:up_blocks=0")),
        Merge(combination="ties"),
        Switch(2, order=(3, 1, 2)),
        Composite(),
        CMLoRA(decay=0.5),
        CMLoRA(interval=2, lead=4.0),
    ],
)
def test_headers_tell_what_weights_tell(shot: Shot, method: Method) -> None:
    asked = Shot("", steps=shot.steps, adapters=shot.adapters, method=method)
    told, known = outline(asked), schedule(asked)
    assert (told.adapters, told.layers) == (known.adapters, known.layers)
    assert told.cost == known.cost
    for step, expected in zip(told.steps, known.steps, strict=True):
        assert [(one.layers, one.shallow) for one in step] == [
            (one.layers, one.shallow) for one in expected
        ]
        assert [one.weight for one in step] == pytest.approx([one.weight for one in expected])


def test_a_half_has_its_layers_only(shot: Shot) -> None:
    file = shot.adapters[2][0]  # of two blocks alone: a B-LoRA of SDXL
    with_half = Shot("", steps=2, adapters=((f"{file}:content", 1.0),))
    assert outline(with_half).layers == (LAYERS[2],)
    assert outline(with_half).adapters == schedule(with_half).adapters


def test_klora_needs_the_weights(shot: Shot) -> None:
    with pytest.raises(NeedsWeights):
        outline(Shot("", adapters=shot.adapters[:2], method=KLoRA()))


def test_it_is_told_without_pytorch(shot: Shot) -> None:
    program = (
        "import sys, compose; from studio.requests.shot import Shot\n"
        f"shot = Shot('', adapters=(({str(shot.adapters[0][0])!r}, 1.0),))\n"
        "print(compose.outline(shot).cost, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["25.0", "False"]
