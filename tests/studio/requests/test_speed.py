"""What a speed adapter sets of a shot, by the one rule for all callers."""

from pathlib import Path

import pytest
import torch

from compose import outline, render, shot_from_dict
from studio import Base, load_adapter, load_base
from studio.adapters.tensor_file import write_tensors
from studio.requests.resolved_shot import resolve, with_size
from studio.requests.shot import Shot
from studio.requests.shot_recipe import shot_to_dict
from studio.requests.speed import with_speed

SAID = "lcm-lora makes pictures fast (LCM-LoRA): sampler lcm, 4 steps, CFG scale 1"


@pytest.fixture(scope="module")
def base(sdxl_folder: Path) -> Base:
    return load_base(sdxl_folder, device="cpu")


@pytest.fixture
def fast(tmp_path: Path, base: Base) -> Path:
    layer, own = next((n, one) for n, one in base.layers().items() if "to_q" in n)
    assert isinstance(own, torch.nn.Linear)
    down, up = torch.zeros(1, own.in_features), torch.zeros(own.out_features, 1)
    path = tmp_path / "lcm-lora.safetensors"
    write_tensors(path, {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, {})
    return path


def sampling(shot: Shot) -> tuple:
    return shot.scheduler, shot.spacing, shot.steps, shot.guidance


def test_what_was_not_given_is_set_and_said(fast: Path, base: Base) -> None:
    shot = Shot("a cat", adapters=((fast, 1.0),))
    set_, said = with_speed(shot)
    assert (sampling(set_), said) == (("lcm", None, 4, 1.0), SAID)
    assert with_speed(set_) == (set_, "")
    loaded = Shot("a cat", adapters=((load_adapter(fast, base=base), 1.0),))
    assert with_speed(loaded)[1] == SAID
    assert sampling(resolve(shot, base).shot) == sampling(with_size(shot, base)) == sampling(set_)
    assert len(outline(shot).steps) == 4


def test_what_was_given_stays(fast: Path) -> None:
    """Though it is what would be there by default; a spacing goes with its sampler."""
    given = Shot("a cat", steps=25, scheduler="euler", adapters=((fast, 1.0),))
    set_, said = with_speed(given)
    assert sampling(set_) == ("euler", None, 25, 1.0)
    assert said.endswith("CFG scale 1")
    assert with_speed(Shot("a cat", adapters=((fast, 0.0),)))[1] == ""


def test_the_picture_and_its_recipe_are_those_of_what_was_set(fast: Path, base: Base) -> None:
    mix = ((load_adapter(fast, base=base), 1.0),)
    unset = render(base, Shot("a cat", adapters=mix))
    given = Shot("a cat", adapters=mix, scheduler="lcm", steps=4, guidance=1.0)
    assert unset.tobytes() == render(base, given).tobytes()
    assert "Steps: 4" in unset.info["parameters"]


def test_a_written_shot_says_all_it_says(fast: Path) -> None:
    shot = Shot("a cat", adapters=((str(fast), 1.0),))
    assert sampling(shot_from_dict(shot_to_dict(shot))) == sampling(shot)
    assert with_speed(shot_from_dict({"prompt": "a", "adapters": [[str(fast), 1]]}))[1] == SAID
