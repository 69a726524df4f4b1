"""A model's captions are those that transformers' own classes write."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor, GitForCausalLM, GitProcessor
from typer.testing import CliRunner

from studio.dataset.captioner import (
    LONGEST,
    find_captioner,
    find_captioners,
    open_captioner,
)
from studio.errors import BadInput
from tests.tiny_captioner import tiny_captioner
from ui.cli.training.caption import app
from ui.web.server.torch_process import TorchProcess
from ui.web.train.dataset.caption_process import write_caption


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_captioner(tmp_path_factory.mktemp("models") / "blip")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("one", "red"), ("two", "blue")):
        Image.radial_gradient("L").resize((40, 50)).convert("RGB").save(folder / f"{name}.png")
        Image.new("RGB", (40, 50), colour).save(folder / f"{name}-plain.jpg")
    (folder / "two.txt").write_text("mine")
    return folder


@pytest.mark.parametrize(
    ("kind", "model_class", "processor_class"),
    [("blip", BlipForConditionalGeneration, BlipProcessor), ("git", GitForCausalLM, GitProcessor)],
)
def test_captions_are_those_of_transformers(
    kind: str, model_class: Any, processor_class: Any, tmp_path: Path, photos: Path
) -> None:
    folder = tiny_captioner(tmp_path / kind, kind)
    oracle, processor = (made.from_pretrained(folder) for made in (model_class, processor_class))
    captioner, said = open_captioner(folder), []
    for path in sorted(photos.glob("*.[jp]*g")):
        with Image.open(path) as picture:
            given = processor(images=picture, return_tensors="pt")
        tokens = oracle.generate(pixel_values=given.pixel_values, max_length=LONGEST + 1)
        told = processor.decode(tokens[0], skip_special_tokens=True)
        said.append(captioner.caption(path))
        assert said[-1] == told.strip()
    assert any(said)


def test_a_folder_gets_the_captions_that_it_lacks(model: Path, photos: Path) -> None:
    said = {one.name: open_captioner(model).caption(one) for one in photos.glob("*.[jp]*g")}
    asked = [str(photos), "--model", str(model)]
    shown = CliRunner().invoke(app, [*asked, "--json"])
    assert shown.exit_code == 0, shown.output
    now = {Path(name).name: text for name, text in json.loads(shown.stdout).items()}
    assert now == said | {"two.png": "mine"} and not (photos / "one.txt").exists()
    CliRunner().invoke(app, [*asked, "--rewrite", "--trigger", "sks", "--write"])
    assert (photos / "two.txt").read_text() == f"sks, {said['two.png']}"


def test_a_process_writes_captions_and_can_be_ended(model: Path, photos: Path) -> None:
    process, picture = TorchProcess(), photos / "one.png"
    said = open_captioner(model).caption(picture)
    assert process.call(write_caption, str(model), picture) == said
    with pytest.raises(BadInput, match=r"no-photo\.png"):
        process.call(write_caption, str(model), photos / "no-photo.png")
    process.end()
    with pytest.raises(BadInput, match="not enough memory"):
        process.call(write_caption, str(model), picture)
    assert process.call(write_caption, str(model), picture) == said
    process.end()


def test_only_captioners_on_this_machine_are_found(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name, config in (("some/blip-base", {"model_type": "blip"}), ("some/llm", {})):
        kept = tmp_path / f"models--{name.replace('/', '--')}"
        (kept / "refs").mkdir(parents=True)
        (kept / "refs" / "main").write_text("abc")
        (kept / "snapshots" / "abc").mkdir(parents=True)
        (kept / "snapshots" / "abc" / "config.json").write_text(json.dumps(config))
    assert find_captioners() == ["some/blip-base"]
    for source, said in (
        ("some/other", "no captioner 'some/other' on this machine"),
        ("some/llm", "no config.json of a model"),
        ("some/blip-base", "no .safetensors file"),
        (tmp_path / "none", "no captioner"),
    ):
        with pytest.raises(BadInput, match=said):
            find_captioner(source)
    assert find_captioner(model) == model


def test_a_model_s_own_code_is_not_run(model: Path, tmp_path: Path) -> None:
    folder = tiny_captioner(tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForImageTextToText": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('run')")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BadInput, match="cannot be opened"):
        open_captioner(folder)
    assert "code" not in {name.rpartition(".")[2] for name in sys.modules if "odd" in name}
