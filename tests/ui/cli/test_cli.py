"""The commands from end to end, on a tiny random SDXL."""

import shutil
import signal
import subprocess
import sys
from collections import ChainMap
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from studio.adapters.adapter import Adapter
from studio.adapters.load import load_adapter
from studio.errors import BadInput, Stopped
from studio.requests.picture_file import read_recipe
from tests.ui.cli.conftest import Run
from trainers.engine.loop import Trainer
from ui import cli
from ui.cli.adapters.convert import _contents
from ui.cli.app import NO_MEMORY

ROOT = Path(__file__).resolve().parents[3]


def test_help_loads_nothing_that_takes_its_time() -> None:
    """`studio --help` answers in a quarter of a second; any of these would double that."""
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ui.cli", "--help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert "typer" in loaded
    assert not loaded & {"torch", "numpy", "diffusers", "transformers", "accelerate", "gradio"}


@pytest.mark.parametrize(
    "command",
    [
        "train lora",
        "train sara",
        "train diffusekrona",
        "train oft",
        "train tlora",
        "align palette",
        "train blora",
        "sweep",
        "grid",
        "generate",
        "schedule",
        "inspect",
        "convert",
        "profile",
        "jobs",
        "jobs list",
        "jobs show",
        "jobs stop",
        "jobs resume",
        "jobs remove",
        "jobs restore",
        "worker",
        "demo",
    ],
    ids=lambda name: name,
)
def test_every_command_has_help_with_an_example(run: Run, command: str) -> None:
    shown = run(*command.split(), "--help")
    assert shown.code == 0
    assert f"Example: studio {command}" in shown.out


def test_versions_are_told_for_a_report(run: Run) -> None:
    told = run("--version")
    assert told.code == 0
    assert told.out.startswith("studio ") and f"torch {torch.__version__}" in told.out


def test_training_reports_what_it_did(
    true_estimates: None, run: Run, sdxl_folder: Path, photos: Path
) -> None:
    words = ["--base", sdxl_folder, "--steps", 2, "--batch", 1, "--rank", 2, "--targets", "all"]
    done = run("train", "lora", photos, "--trigger", "A sks robot", *words, "--json")
    assert done.code == 0, done.err
    facts = done.json
    assert isinstance(facts, dict)
    assert facts["adapter"] == "a-sks-robot.safetensors"
    assert (facts["steps"], facts["pictures"], facts["skipped"]) == (2, 3, [])
    assert "This will take " in done.err
    trained = load_adapter("a-sks-robot.safetensors")
    assert trained.triggers == ("A sks robot",)
    assert trained.recipe["options"] == {
        "rank": 2,
        "alpha": None,
        "rank_stabilised": False,
        "dora": False,
        "dropout": 0.0,
        "targets": "all",
        "start": "kaiming",
    }
    assert len(Path(facts["run"], "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "parameters", "least"),
    [
        ("lora --rank 4", 797_184, 6e9),
        ("lora --rank 4 --quantize fp8", 797_184, 3.5e9),
        ("diffusekrona --a1 64 --a2 8", 248_176, 6e9),
    ],
)
def test_a_dry_run_counts_on_a_real_configuration(
    true_estimates: None, run: Run, words: str, parameters: int, least: float
) -> None:
    counted = run("train", *words.split(), "--base-config", "sd15", "--dry-run", "--json")
    assert counted.code == 0, counted.err
    facts = counted.json
    assert isinstance(facts, dict)
    assert (facts["weights"], facts["layers"]) == (859_520_964, 128)
    assert facts["parameters"] == parameters
    assert least < facts["estimate"]["bytes"] < least + 2e9
    assert list(Path().iterdir()) == []


def test_a_dry_run_on_a_base_shows_its_magnitudes(run: Run, sdxl_folder: Path) -> None:
    words = ["train", "sara", "--budget", 3000, "--base", sdxl_folder, "--dry-run"]
    facts = run(*words, "--json").json
    assert isinstance(facts, dict)
    assert facts["parameters"] == 3000
    assert "below 0.001" in facts["facts"]
    shown = run(*words).out
    assert facts["facts"]["below 0.001"] in shown
    assert "3,000" in shown and "GB of memory" in shown
    assert list(Path().iterdir()) == []


def test_a_damaged_picture_is_named_skipped_and_counted(
    run: Run, sdxl_folder: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in photos.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (64, 64), "red").save(folder / "cut.jpg")
    whole = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    words = ["--trigger", "t", "--base", sdxl_folder, "--steps", 1, "--batch", 1, "--rank", 1]
    done = run("train", "lora", folder, *words)
    assert done.code == 0, done.err
    assert "Left out 1 damaged: cut.jpg can't be read" in done.err
    assert "1 damaged" in done.out


@pytest.mark.parametrize("more", ["--dry-run", "--queue"])
def test_what_is_left_out_is_told_without_training_too(
    run: Run, sdxl_folder: Path, photos: Path, tmp_path: Path, more: str
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "a.cr2").write_bytes(b"x")
    (folder / "closeups").mkdir()
    (folder / "closeups" / "b.jpg").write_bytes(b"x")
    words = ["train", "lora", folder, "--trigger", "t", "--base", sdxl_folder, more]
    done = run(*words)
    assert done.code == 0, done.err
    assert "Left out 1 camera raw: a.cr2 is not read" in done.err
    assert "Left out 1 in sub-folders: closeups holds 1" in done.err
    if more == "--dry-run":
        facts = run(*words, "--json").json
        assert isinstance(facts, dict)
        assert facts["pictures"] == len(list(photos.glob("*.png")))
        assert [one["kind"] for one in facts["skipped"]] == ["camera raw", "in sub-folders"]


def test_a_dry_run_refuses_a_folder_without_pictures(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    done = run("train", "lora", "photos", "--dry-run", "--base-config", "sd15")
    assert done.code == 2
    assert "None of the pictures in photos can be read. Left out 1 damaged: a.jpg" in done.err


def test_samples_are_drawn_while_training(run: Run, sdxl_folder: Path, photos: Path) -> None:
    words = ["--trigger", "t", "--base", sdxl_folder, "--steps", 2, "--batch", 1, "--rank", 1]
    more = ["--sample-every", 1, "--sample-prompts", "a t", "--sample-prompts", "a red t"]
    assert run("train", "lora", photos, *words, *more, "--run", "here").code == 0
    names = sorted(path.name for path in Path("here/samples").iterdir())
    assert names == [f"step-00000{step}-0{prompt}.png" for step in (1, 2) for prompt in (0, 1)]


def test_folders_masks_and_a_prior_are_trained_together(
    run: Run, sdxl_folder: Path, photos: Path, tmp_path: Path
) -> None:
    part = tmp_path / "more" / "3_sks robot"
    part.mkdir(parents=True)
    Image.new("RGB", (64, 64), "red").save(part / "red.png")
    for picture in (*photos.glob("*.png"), part / "red.png"):
        masks = tmp_path / "masks" if picture.parent == photos else part / "masks"
        masks.mkdir(exist_ok=True)
        Image.new("L", (64, 64), "white").save(masks / picture.name)
    beside = tmp_path / "photos"
    beside.symlink_to(photos)
    words = ["--trigger", "sks robot", "--base", sdxl_folder, "--masked", "files", "--run", "here"]
    prior = ["--prior-class", "a robot", "--prior-count", 2, "--steps", 1, "--batch", 2]
    done = run("train", "lora", beside, f"{tmp_path / 'more'}:0.5", *words, *prior, "--json")
    assert done.code == 0, done.err
    assert isinstance(done.json, dict)
    assert done.json["pictures"] == 4
    assert "4 pictures, 4.5 a round with repeats and weights" in done.err
    drawn = sorted(path.name for path in Path("here/prior").glob("*.png"))
    assert drawn == ["class-0000.png", "class-0001.png"]
    again = run("generate", "--like", Path("here/prior/class-0001.png"), "--out", "again.png")
    assert again.code == 0, again.err
    assert Path("again.png").read_bytes() == Path("here/prior/class-0001.png").read_bytes()


def test_an_interrupted_training_goes_on_to_the_same_bytes(
    run: Run, sdxl_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "lora", photos, "--trigger", "t", "--base", sdxl_folder]
    words += ["--steps", "6", "--batch", "1", "--rank", "2"]
    step, steps = Trainer.step, count(1)

    def interrupted(trainer: Trainer, *given: Any) -> Any:
        if next(steps) == 3:
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
            signal.raise_signal(signal.SIGINT)  # Ctrl-C
        return step(trainer, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", interrupted)
        stopped = run(*words, "--run", "stopped", "--out", "a.safetensors")
    assert stopped.code == 130, stopped.err
    assert [path.name for path in Path("stopped/checkpoints").iterdir()] == ["step-000003"]
    assert "studio train lora --resume stopped" in stopped.err
    assert not Path("a.safetensors").exists()

    assert run("train", "--resume", "stopped").code == 0  # the run knows its kind
    assert run(*words, "--run", "undisturbed", "--out", "b.safetensors").code == 0
    assert Path("b.safetensors").read_bytes() == Path("a.safetensors").read_bytes()


def test_pictures_carry_their_recipe_and_can_be_made_again(
    run: Run, sdxl_folder: Path, adapter: Path
) -> None:
    words = ["--base", sdxl_folder, "--adapter", f"{adapter}:0.5", "--steps", 2, "--seed", 5]
    made = run("generate", "a sks robot", *words, "--count", 2, "--method", "merge", "--json")
    assert made.code == 0, made.err
    assert isinstance(made.json, list)
    assert [row["seed"] for row in made.json] == [5, 6]
    first, second = (Path(row["path"]) for row in made.json)
    assert (first.parent, first.name) == (Path("outputs"), "a-sks-robot-5.png")
    assert first.read_bytes() != second.read_bytes()
    assert read_recipe(first)["prompt"] == "a sks robot"

    assert run("generate", "--like", second, "--out", "again.png").code == 0
    assert Path("again.png").read_bytes() == second.read_bytes()

    # Options given beside --like take the recipe's place, and nothing else changes.
    assert run("generate", "--like", second, "--seed", 5, "--out", "other.png").code == 0
    assert Path("other.png").read_bytes() == first.read_bytes()


def test_any_seed_is_drawn_and_recorded(run: Run, sdxl_folder: Path) -> None:
    words = ["a cat", "--base", sdxl_folder, "--steps", 1, "--seed", -1, "--count", 2, "--json"]
    first, second = (run("generate", *words).json for _ in range(2))
    assert first[0]["seed"] >= 0 and first[1]["seed"] == first[0]["seed"] + 1
    assert first[0]["seed"] != second[0]["seed"]
    assert read_recipe(first[0]["path"])["seed"] == first[0]["seed"]


def test_a_picture_of_a_quantized_base_says_so_and_is_made_again(
    run: Run, sdxl_folder: Path, adapter: Path
) -> None:
    words = ["--base", sdxl_folder, "--adapter", adapter, "--steps", 1, "--seed", 5]
    assert run("generate", "a robot", *words, "--out", "plain.png").code == 0
    assert run("generate", "a robot", *words, "--quantize", "fp8", "--out", "fp8.png").code == 0
    assert "quantize" not in read_recipe("plain.png")["base"]
    assert read_recipe("fp8.png")["base"]["quantize"] == "fp8"
    assert Path("fp8.png").read_bytes() != Path("plain.png").read_bytes()
    assert run("generate", "--like", "fp8.png", "--out", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("fp8.png").read_bytes()
    wide = ("--like", "fp8.png", "--quantize", "none", "--out", "wide.png")
    assert run("generate", *wide).code == 0
    assert Path("wide.png").read_bytes() == Path("plain.png").read_bytes()


def test_a_picture_can_start_from_another(run: Run, sdxl_folder: Path, photos: Path) -> None:
    start = photos / "1.png"
    words = ["--base", sdxl_folder, "--steps", 4, "--denoise", 0.5, "--init-image", start]
    assert run("generate", "a robot", *words, "--out", "from.png").code == 0
    made = read_recipe("from.png")
    assert (made["denoise"], made["steps"]) == (0.5, 4)
    assert run("generate", "--like", "from.png", "--out", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("from.png").read_bytes()


def test_a_second_picture_of_a_name_does_not_replace_the_first(run: Run, sdxl_folder: Path) -> None:
    for _ in range(2):
        assert run("generate", "a robot", "--base", sdxl_folder, "--steps", 1).code == 0
    assert sorted(path.name for path in Path("outputs").iterdir()) == [
        "a-robot-0-2.png",
        "a-robot-0.png",
    ]


def test_an_adapter_that_is_gone_is_named_and_can_be_given_anew(
    run: Run, sdxl_folder: Path, adapter: Path
) -> None:
    copy = Path("copy.safetensors")
    copy.write_bytes(adapter.read_bytes())
    run("generate", "a", "--base", sdxl_folder, "--adapter", copy, "--steps", 1, "--out", "a.png")
    copy.unlink()
    gone = run("generate", "--like", "a.png")
    assert gone.code == 2
    assert "copy.safetensors" in gone.err
    assert run("generate", "--like", "a.png", "--adapter", adapter, "--out", "b.png").code == 0


def test_a_methods_options_reach_the_picture(run: Run, sdxl_folder: Path, adapter: Path) -> None:
    words = ["generate", "a sks robot", "--base", sdxl_folder, "--steps", 2, "--json"]
    mix = ["--adapter", adapter, "--adapter", f"{adapter}:0.5"]
    chosen = ["--method", "switch", "--switch-interval", 1, "--switch-order", 2]
    (made,) = run(*words, *mix, *chosen, "--switch-order", 1).json  # type: ignore[misc]
    assert read_recipe(made["path"])["method"] == {
        "name": "switch",
        "options": {"interval": 1, "order": [2, 1], "turns": [], "weigh": "equal"},
    }
    assert "--klora-k is an option of the method klora, not of switch" in run(
        *words, *chosen, "--klora-k", 3
    ).err.replace("\n", " ")
    assert "--klora-k is an option of the method klora, so give --method klora with it" in run(
        *words, "--klora-k", 3
    ).err.replace("\n", " ")


def test_schedule_is_printed_and_drawn(run: Run, adapter: Path) -> None:
    """Without a base: a few files are enough."""
    mix = ["schedule", "--adapter", adapter, "--adapter", f"{adapter}:0.5", "--steps", 3]
    chosen = ["--method", "cmlora", "--cmlora-interval", 2]
    ended = run(*mix, *chosen, "--out", "drawn/it.png")
    assert ended.code == 0
    assert "layers at 0.5" in ended.out and "reused" in ended.out
    with Image.open("drawn/it.png") as picture:
        assert picture.format == "PNG"
    told = run(*mix, *chosen, "--json").json
    assert isinstance(told, dict)
    assert (told["full"], told["reused"], told["cost"]) == (3, 3, 4.05)
    assert [(step["first"], step["last"]) for step in told["steps"]] == [(1, 1), (2, 2), (3, 3)]
    name = told["adapters"][1]
    assert name.startswith("2 ")
    second = told["steps"][2]["passes"][1]
    assert not second["reused"] and set(second["adapters"]) == {name}
    assert set(second["adapters"][name]) == set(told["layers"])
    alike = run(*mix, "--method", "composite", "--json").json
    assert isinstance(alike, dict)
    assert [(step["first"], step["last"]) for step in alike["steps"]] == [(1, 3)]


def test_inspect_says_what_an_adapter_is(run: Run, adapter: Path) -> None:
    facts = run("inspect", adapter, "--json").json
    assert isinstance(facts, dict)
    assert (facts["kind"], facts["family"], facts["triggers"]) == ("lora", "sdxl", ["sks robot"])
    assert facts["ranks"] == facts["alphas"] == {"2": facts["layers"]["unet"]}
    assert facts["matched"].startswith("none: the adapter ")  # its base is smaller than SDXL
    assert "was made for a base of another size" in facts["matched"]
    shown = run("inspect", adapter).out
    for words in ("sks robot", "sdxl", "recipe.options.rank", f"{facts['parameters']}"):
        assert words in shown


def test_inspect_finds_the_base_of_a_file_that_tells_none(run: Run, sdxl_folder: Path) -> None:
    from safetensors.torch import save_file

    def lora(layer: str, width: int) -> dict[str, torch.Tensor]:
        shapes = {"lora_down.weight": (4, width), "lora_up.weight": (width, 4)}
        return {f"{layer}.{leaf}": torch.zeros(*shape) for leaf, shape in shapes.items()}

    def matched(*arguments: object) -> dict[str, Any]:
        facts = run("inspect", "a.safetensors", *arguments, "--json").json
        assert isinstance(facts, dict)
        return facts

    middle = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file(lora(middle, 1280), "a.safetensors")
    assert matched()["matched"] == "1 of 1 layers matched, base sd15 or sd21 or sdxl"
    save_file(
        lora(middle, 1280) | lora("unet.up_blocks.3.attentions.0.proj_in", 320), "a.safetensors"
    )
    assert matched()["matched"] == "2 of 2 layers matched, base sd15 or sd21"
    save_file(lora(middle, 1280), "a.safetensors")
    assert matched("--base", "sd21")["matched"] == "1 of 1 layers matched, base sd21"
    save_file(lora(middle, 64) | lora("unet.down_blocks.3.resnets.0.conv1", 32), "a.safetensors")
    assert matched()["matched"] == "none: no base that Studio knows: give its own, --base"
    told = matched("--base", sdxl_folder)
    assert told["matched"] == f"1 of 2 layers matched, base {sdxl_folder.name}"
    assert told["left_out"] == [f"unet.down_blocks.3.resnets.0.conv1: {sdxl_folder.name} has none"]
    shown = run("inspect", "a.safetensors", "--base", sdxl_folder).out
    assert "1 of 2 layers matched" in shown and "unknown" not in shown
    many = [lora(f"unet.down_blocks.7.attentions.{n}.proj_in", 32) for n in range(12)]
    save_file(lora(middle, 64) | dict(ChainMap(*many)), "a.safetensors")
    assert "and 2 more" in run("inspect", "a.safetensors", "--base", sdxl_folder).out


def test_inspect_says_how_a_picture_was_made(run: Run, sdxl_folder: Path) -> None:
    run("generate", "a blue robot", "--base", sdxl_folder, "--steps", 1, "--out", "p.png")
    facts = run("inspect", "p.png", "--json").json
    assert facts == read_recipe("p.png")
    assert "a blue robot" in run("inspect", "p.png").out


@pytest.mark.parametrize(
    ("tool", "key"), [("kohya", "lora_unet_"), ("diffusers", "unet."), ("lycoris", "lora_unet_")]
)
def test_converted_adapters_are_read_back(run: Run, adapter: Path, tool: str, key: str) -> None:
    from safetensors import safe_open

    out = Path("converted.safetensors")
    assert run("convert", adapter, "--to", tool, "--out", out).code == 0
    with safe_open(out, "pt") as file:
        assert all(name.startswith(key) for name in file.keys())  # noqa: SIM118
    before, after = load_adapter(adapter), load_adapter(out)
    assert before.deltas.keys() == after.deltas.keys()
    for name, delta in before.deltas.items():
        weight = torch.zeros(delta.shape)
        assert torch.allclose(delta.dense(weight), after.deltas[name].dense(weight), atol=1e-7)
    assert run("convert", adapter, "--to", tool, "--out", out).code == 2  # never over a file


def test_every_new_word_has_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {word: ({}, {"word": word}) for word in ("a cat", "a-cat", "*")}
    monkeypatch.setattr("studio.adapters.formats.convert.to_inversions", lambda _: words)
    files = _contents(Adapter(deltas={}), to="embedding", out=Path("new.safetensors"))
    assert {path.name: told["word"] for path, (_, told) in files.items()} == {
        "new-a-cat.safetensors": "a cat",
        "new-a-cat-2.safetensors": "a-cat",
        "new-word.safetensors": "*",
    }


def test_half_a_folder_for_peft_is_never_left(
    run: Run, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise BadInput("no space is left")

    monkeypatch.setattr("ui.cli.adapters.convert.write_file", full)  # the tensors are written then
    assert run("convert", adapter, "--to", "peft", "--out", "robot").code == 2
    assert list(Path().iterdir()) == []


def test_what_is_converted_keeps_the_dots_of_its_name(
    run: Run, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("robot.v2").mkdir()
    shutil.copy(adapter, "robot.v2.safetensors")
    shutil.copy(adapter, "robot.v2/pytorch_lora_weights.safetensors")
    assert run("convert", "robot.v2.safetensors", "--to", "kohya").code == 0
    assert Path("robot.v2-kohya.safetensors").is_file()
    assert run("convert", "robot.v2", "--to", "lycoris").code == 0  # a folder as diffusers has it
    assert Path("robot.v2-lycoris.safetensors").is_file()
    monkeypatch.chdir("robot.v2")
    assert run("convert", ".", "--to", "diffusers").code == 0
    assert Path("../robot.v2-diffusers.safetensors").is_file()


WRONG = {
    "no such folder": "train lora nowhere --trigger t --base {base}",
    "an empty folder": "train lora {empty} --trigger t --base {base}",
    "no trigger": "train lora {photos} --base {base}",
    "no pictures": "train lora --trigger t --base {base}",
    "no name for an adapter": "train lora {photos} --trigger t --base {base} --out robot.bin",
    "an adapter's name that is a folder": "train lora {photos} --trigger t --out {folder}",
    "an adapter below a file": "train lora {photos} --trigger t --out {photos}/1.png/a.safetensors",
    "a run below a file": "train lora {photos} --trigger t --base {base} --run {photos}/1.png/run",
    "a caption in another encoding": "train lora {latin} --trigger t --base {base}",
    "a recipe out of range": "train lora {photos} --trigger t --base {base} --lr -1",
    "a kind out of range": "train lora {photos} --trigger t --base {base} --rank 0",
    "a weight out of range": "train lora {photos}:0 --trigger t --base {base}",
    "no masks": "train lora {photos} --trigger t --base {base} --masked files",
    "a weight without masks": "train lora {photos} --trigger t --unmasked-weight 0.5",
    "no words for a prior": "train lora {photos} --trigger t --prior-pictures {photos}",
    "a prior's weight alone": "train lora {photos} --trigger t --prior-weight 2",
    "a prior beside a resume": "train lora --resume {empty} --prior-pictures {photos}",
    "a run that is none": "train lora --resume {empty}",
    "a run that is none, of any kind": "train --resume {empty}",
    "a base beside a resume": "train lora --resume {empty} --base {base}",
    "options beside a resume": "train lora --resume {empty} --steps 5",
    "a dry run of a resume": "train lora --resume {empty} --dry-run",
    "a dry run from a damaged adapter": "train lora --base {base} --init {damaged} --dry-run",
    "a real dry run from a damaged one": "train lora --base-config sdxl --init {damaged} --dry-run",
    "a dry run from another family's": "train lora --base {other} --init {adapter} --dry-run",
    "no such configuration's weights": "train lora {photos} --trigger t --base-config sd15",
    "smallness without weights": "train sara --base-config sd15 --dry-run",
    "another family's finding": "train blora {photos} --trigger t --base {other}",
    "no such half": "generate a --base {base} --adapter {adapter}:style",
    "no halves to write": "convert {adapter} --to kohya --halves",
    "no such base": "generate a --base nowhere.safetensors",
    "a hub id offline": "generate a --base nobody/nothing",
    "no folder and no hub id": "generate a --base nobody/no--thing",
    "no prompt": "generate --base {base}",
    "no such adapter": "generate a --base {base} --adapter no.safetensors:0.5",
    "a picture for an adapter": "generate a --base {base} --adapter {photos}/1.png",
    "another family's adapter": "generate a --base {other} --adapter {adapter}",
    "no such scheduler": "generate a --base {base} --scheduler fast",
    "no such method": "generate a --base {base} --method blend",
    "another method's option": "generate a --base {base} --method switch --klora-k 9",
    "a method's option alone": "generate a --base {base} --switch-interval 9",
    "a method's option out of range": "generate a --base {base} --method switch "
    "--switch-interval 0",
    "a schedule of another type": "schedule --out schedule.jpg",
    "a schedule of no such adapter": "schedule --adapter no.safetensors",
    "a schedule with another method's option": "schedule --switch-interval 2",
    "no steps": "generate a --base {base} --steps 0",
    "no more seeds": "generate a --base {base} --count 2 --seed 9223372036854775807",
    "no such start": "generate a --base {base} --init-image no.png",
    "a foreign picture": "generate --like {photos}/1.png",
    "many pictures in one": "generate a --base {base} --count 2 --out one.png",
    "a file for a folder": "generate a --base {base} --out {photos}/1.png/deeper",
    "nothing to inspect": "inspect no.safetensors",
    "a foreign picture to inspect": "inspect {photos}/1.png",
    "a picture to count on a base": "inspect {photos}/1.png --base sketch",
    "no such base to count on": "inspect {adapter} --base no.safetensors",
    "another family's name": "convert {adapter} --to peft --family sd1",
    "a folder that holds no adapter": "convert / --to kohya",
    "nothing to convert": "convert no.safetensors --to kohya",
    "an unwritable place": "convert {adapter} --to kohya --out {photos}/1.png/a.safetensors",
}


BEFORE_THE_BASE = (
    "no such folder",
    "an empty folder",
    "an adapter's name that is a folder",
    "an adapter below a file",
    "a run below a file",
    "a caption in another encoding",
    "a recipe out of range",
    "a weight out of range",
    "no masks",
    "a weight without masks",
    "no words for a prior",
    "a prior's weight alone",
    "no such adapter",
    "a picture for an adapter",
    "no such start",
    "no steps",
)


def opened_too_soon(*_: object) -> None:
    raise AssertionError("the base was opened for what can be known without it")


@pytest.fixture
def wrong(
    sdxl_folder: Path,
    sd1_folder: Path,
    photos: Path,
    adapter: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], list[str]]:
    """Fills in the places that a line of WRONG names."""
    latin, folder = tmp_path_factory.mktemp("latin"), tmp_path_factory.mktemp("x") / "a.safetensors"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(latin / "1.png")
    (latin / "1.txt").write_bytes("ein Käfer".encode("latin-1"))
    damaged = folder.with_name("damaged.safetensors")
    damaged.write_bytes(adapter.read_bytes()[:-9])
    places = {
        "base": sdxl_folder,
        "other": sd1_folder,
        "photos": photos,
        "adapter": adapter,
        "damaged": damaged,
        "latin": latin,
        "folder": folder,
        "empty": tmp_path_factory.mktemp("empty"),
    }
    return lambda words: [word.format(**places) for word in words.split()]


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(
    run: Run, name: str, wrong: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in BEFORE_THE_BASE:
        monkeypatch.setattr("studio.bases.load.load_base", opened_too_soon)
    ended = run(*wrong(WRONG[name]))
    assert ended.code == 2
    assert ended.out == ""
    (sentence,) = [line for line in ended.err.splitlines() if line.startswith("studio: ")]
    assert sentence.endswith(".")
    assert len(sentence) > 20
    assert "Traceback" not in ended.err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (BadInput("this is wrong"), 2, "studio: this is wrong."),
        (Stopped("it was stopped."), 130, "studio: it was stopped."),
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device", "/x"), 2, "studio: /x: No space left on device."),
        (MemoryError(), 1, f"studio: {NO_MEMORY}."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, f"studio: {NO_MEMORY}."),
    ],
)
def test_exit_codes(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, sentence: str
) -> None:
    def fail(*_: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("ui.cli.adapters.inspect.show_file", fail)
    ended = run("inspect", "x")
    assert (ended.code, ended.err.strip()) == (code, sentence)


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **_options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ui.cli.adapters.inspect.show_file", fail)
    with pytest.raises(ZeroDivisionError):  # which ends the program with 1 and its traceback
        cli.main(["inspect", "x"])
