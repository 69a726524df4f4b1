"""B-LoRA's two blocks, its halves as they are used, and the families it is not for."""

# diffusers' and PyTorch's types say less than they take.
# pyright: reportArgumentType=false, reportOperatorIssue=false

import re
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

import studio
from compose.engine.shot_reader import like
from studio.adapters.adapter import Adapter
from studio.adapters.delta import LowRank, attach, swap_weights
from studio.adapters.describe import describe
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.bases.real_config import real_config
from studio.errors import BadInput
from studio.requests.resolved_shot import resolve
from studio.requests.shot_recipe import recipe
from tests.trainers.learning import assert_lent, learned
from trainers import BLoRA, LoRA
from trainers.engine.kind import new_deltas
from ui.cli import main
from ui.shared.names import parse_adapter

CONTENT = "unet.up_blocks.0.attentions.0."
STYLE = "unet.up_blocks.0.attentions.1."


def shaken(base: Base) -> Adapter:
    """As if trained, without the time that takes."""
    kind = BLoRA(rank=4, alpha=2, anyway=True).for_base(base)
    deltas = new_deltas(kind, base, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    for delta in deltas.values():
        assert isinstance(delta, LowRank)
        delta.up.data.normal_(generator=draw)
    return Adapter(deltas=deltas, kind="blora", family=base.family, name="robot")


@pytest.fixture
def file(sdxl: Base, tmp_path: Path) -> Path:
    return shaken(sdxl).save(tmp_path / "robot.safetensors")


def predicted(base: Base) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    text = base.encode_text(["a sks robot"])
    return base.predict(torch.randn(1, 4, 8, 8, generator=draw), 500, text)


def test_counts_on_the_real_sdxl() -> None:
    """80 layers and 14,090,240 parameters a block at rank 64."""
    deltas = new_deltas(BLoRA(), real_config("sdxl"), generator=torch.Generator())
    for block in (CONTENT, STYLE):
        own = [delta for name, delta in deltas.items() if name.startswith(block)]
        assert len(own) == 80
        assert sum(p.numel() for delta in own for p in delta.parameters()) == 14_090_240
    assert len(deltas) == 160


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rank": 100_000}, "rank is 100000"),
        ({"alpha": 0.0}, "alpha must be a number above 0"),
        ({"content_frozen": True}, "content_frozen needs style_alone"),
    ],
)
def test_options_that_cannot_be_are_refused_before_any_work(
    sdxl: Base, given: dict[str, float], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        BLoRA(**given).for_base(sdxl)  # pyright: ignore[reportArgumentType]


def test_it_is_lora_on_two_blocks(sdxl: Base) -> None:
    everywhere = new_deltas(LoRA(rank=4), sdxl, generator=torch.Generator())
    deltas = new_deltas(BLoRA(rank=4, alpha=2), sdxl, generator=torch.Generator())
    assert list(deltas) == [name for name in everywhere if name.startswith((CONTENT, STYLE))]
    for delta in deltas.values():
        assert isinstance(delta, LowRank)
        assert (delta.rank, delta.scale) == (4, 0.5)


@pytest.mark.parametrize(("half", "block"), [("content", CONTENT), ("style", STYLE)])
def test_a_half_touches_only_its_block(sdxl: Base, file: Path, half: str, block: str) -> None:
    layers = sdxl.layers()
    before = {name: weight.clone() for name, weight in sdxl.unet.state_dict().items()}
    adapter = load_adapter(f"{file}:{half}", base=sdxl)
    merged = {
        name: (layers[name].weight + delta.dense(layers[name].weight)).detach()
        for name, delta in adapter.deltas.items()
    }
    with swap_weights(layers, merged):
        now = sdxl.unet.state_dict()
        changed = {f"unet.{name}" for name in now if not torch.equal(now[name], before[name])}
    kind = r"\.attn\d\.to_(q|k|v|out\.0)\.weight"
    own = {f"{name}.weight" for name in layers if name.startswith(block)}
    assert changed == {name for name in own if re.search(kind, name)}


def test_two_halves_are_the_whole(sdxl: Base, file: Path) -> None:
    halves = [load_adapter(f"{file}:{half}") for half in ("content", "style")]
    whole = load_adapter(file)
    assert not halves[0].deltas.keys() & halves[1].deltas.keys()
    assert halves[0].deltas.keys() | halves[1].deltas.keys() == whole.deltas.keys()
    for half in halves:
        for name, delta in half.deltas.items():
            weight = sdxl.layers()[name].weight
            assert torch.equal(delta.dense(weight), whole.deltas[name].dense(weight))


def test_halves_are_named_on_the_command_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    name = file.name
    assert parse_adapter(f"{name}:content") == (f"{name}:content", 1.0)
    assert parse_adapter(f"{name}:style:0.8") == (f"{name}:style", 0.8)
    assert load_adapter(f"{name}:style").half == "style"
    with pytest.raises(BadInput, match=r"there is no file robot\.safetensors:background"):
        parse_adapter(f"{name}:background")
    with pytest.raises(BadInput, match=r"there is no file ink\.safetensors\b"):
        parse_adapter("ink.safetensors:style:0.8")
    Path("ink.safetensors:style").touch()
    assert parse_adapter("ink.safetensors:style") == ("ink.safetensors:style", 1.0)


def test_a_picture_is_made_again_with_the_same_halves(sdxl: Base, file: Path) -> None:
    pairs = ((f"{file}:content", 1.0), (f"{file}:style", 0.4))
    made = recipe(resolve(studio.Shot(prompt="a robot", adapters=pairs), sdxl), sdxl)
    again = resolve(like(made, sdxl), sdxl)
    kept = [(adapter.half, strength) for adapter, strength in again.adapters]
    assert kept == [("content", 1.0), ("style", 0.4)]
    (content, _), (style, _) = again.adapters
    assert all(name.startswith(CONTENT) for name in content.deltas)
    assert all(name.startswith(STYLE) for name in style.deltas)


@pytest.mark.parametrize("to", ["diffusers", "kohya"])
def test_the_exported_halves_load_in_diffusers(
    sdxl: Base, sdxl_folder: Path, file: Path, to: str
) -> None:
    """Each of the two files gives there what the half gives here."""
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "convert",
                str(file),
                "--to",
                to,
                "--halves",
                "--out",
                f"{file.parent}/out.safetensors",
            ]
        )
    assert ended.value.code == 0
    base = studio.load_base(sdxl_folder, device="cpu")
    for half in ("content", "style"):
        with torch.no_grad(), attach(sdxl.layers(), load_adapter(f"{file}:{half}").deltas):
            ours = predicted(sdxl)
        pipe = StableDiffusionXLPipeline.from_pretrained(sdxl_folder)
        pipe.load_lora_weights(file.with_name(f"out-{half}.safetensors"))
        base.unet = pipe.unet
        with torch.no_grad():
            theirs = predicted(base)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_half_of_anything_else_is_refused(sdxl: Base, file: Path, tmp_path: Path) -> None:
    everywhere = new_deltas(LoRA(rank=2), sdxl, generator=torch.Generator())
    Adapter(deltas=everywhere, kind="lora", family="sdxl").save(tmp_path / "lora.safetensors")
    with pytest.raises(BadInput, match=r"lora has no style half, as it is no B-LoRA.*down_blocks"):
        load_adapter(f"{tmp_path}/lora.safetensors:style")
    content = tmp_path / "content.safetensors"
    load_adapter(f"{file}:content").save(content)
    with pytest.raises(BadInput, match="no style half: it is the other half alone"):
        load_adapter(f"{content}:style")
    assert load_adapter(f"{content}:content").deltas.keys() == load_adapter(content).deltas.keys()


def test_other_families_are_refused_without_anyway(sd1: Base, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"known for SDXL only.*--anyway"):
        learned(BLoRA(rank=4), sd1, folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    adapter, _ = learned(BLoRA(rank=4, anyway=True), sd1, folder, tmp_path / "run", steps=1)
    blocks = {".".join(name.split(".")[:5]) for name in adapter.deltas}
    assert blocks == {f"unet.up_blocks.1.attentions.{number}" for number in (0, 1)}
    style = load_adapter(f"{tmp_path}/run/adapter.safetensors:style", base=sd1)
    assert all(name.startswith("unet.up_blocks.1.attentions.1.") for name in style.deltas)


def test_anyway_changes_nothing_on_sdxl(sdxl: Base) -> None:
    assert BLoRA(anyway=True).for_base(sdxl) == BLoRA().for_base(sdxl)
    assert not BLoRA(anyway=True).for_base(sdxl).anyway  # pyright: ignore


def test_blocks_can_be_named_and_the_halves_are_theirs(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    content, style = {"down_blocks.1.attentions.0", "mid_block"}, {"up_blocks.0.attentions.1"}
    kind = BLoRA(rank=2, content=", ".join(sorted(content)), style=", ".join(style))
    learned(kind, sdxl, folder, tmp_path / "run", steps=1)
    file = tmp_path / "run" / "adapter.safetensors"
    for half, blocks in (("content", content), ("style", style)):
        names = load_adapter(f"{file}:{half}", base=sdxl).deltas
        used = {block for block in blocks for name in names if name.startswith(f"unet.{block}.")}
        assert used == blocks
        assert all(any(name.startswith(f"unet.{block}.") for block in blocks) for name in names)
    assert describe(file)["halves"] == ["content", "style"]
    with pytest.raises(BadInput, match=r"style: .* has no block 'up_blocks.9' in its UNet"):
        BLoRA(style="up_blocks.9").for_base(sdxl)


def test_on_sketch_the_blocks_are_those_that_were_found_there() -> None:
    base = studio.load_base("sketch", device="cpu")
    kind = BLoRA(rank=2).for_base(base)
    deltas = new_deltas(kind, base, generator=torch.Generator())
    attentions = {".".join(n.split(".")[1:5]) for n in deltas if n.startswith("unet.up_blocks.1.a")}
    assert attentions == {"up_blocks.1.attentions.0", "up_blocks.1.attentions.2"}
    # The layers that draw what these pass on: convolutions too, and at the sides of the two only.
    assert any(name.startswith("unet.up_blocks.2.resnets.") for name in deltas)
    assert not any(
        name.startswith(("unet.down_blocks.", "unet.up_blocks.1.resnets.1.")) for name in deltas
    )


def test_it_is_trained_by_the_loop(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    with assert_lent(sdxl):
        adapter, _ = learned(BLoRA(rank=4), sdxl, folder, tmp_path / "run")
    assert adapter.kind == "blora"
    for name, delta in adapter.deltas.items():
        assert name.startswith((CONTENT, STYLE))
        assert isinstance(delta, LowRank)
        assert delta.up.any()


def test_consislora_s_last_part_trains_the_style_beside_a_frozen_content(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    """Two of five steps: the content half of the third checkpoint is that of the finished file."""
    kind = BLoRA(rank=2, style_alone=0.4, content_frozen=True, clean_loss=0.8)
    with assert_lent(sdxl):
        adapter, losses = learned(kind, sdxl, folder, tmp_path / "run", steps=5, save_every=3)
    before = load_adapter(tmp_path / "run/checkpoints/step-000003/adapter.safetensors")
    for name, delta in adapter.deltas.items():
        same = all(
            torch.equal(one, two)
            for one, two in zip(delta.parameters(), before.deltas[name].parameters(), strict=True)
        )
        assert same == name.startswith(CONTENT), name
    assert len(losses) == 5
    fitted = kind.for_base(sdxl)
    deltas = new_deltas(fitted, sdxl, generator=torch.Generator())
    plans = [fitted.plan_step(deltas, done=done, steps=5) for done in range(5)]
    assert [plan.clean for plan in plans] == [False, True, True, True, True]
    assert [bool(plan.frozen) for plan in plans] == [False, False, False, True, True]
    assert not any(plan.detached for plan in plans)
