"""Pictures, recipes, folders of runs and batches of any origin: a value comes out, or a sentence.

Adapters are in tests/studio/adapters/test_bounds.py, manifests in tests/ui/batch/test_manifest.py,
prompts and `parameters` in tests/studio/requests/test_any_text.py.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from safetensors.torch import save

import compose
import trainers
from studio.dataset.captions import METADATA_FILES, metadata_captions
from studio.errors import BadInput
from studio.picture import picture_size
from studio.requests.picture_file import open_picture, read_recipe
from studio.requests.recipe import draft
from studio.requests.shot import Shot
from studio.requests.shot_recipe import shot_to_dict
from studio.requests.training import from_table, read_request, to_toml
from studio.workspace import Workspace, list_trash, open_workspace
from studio.workspace.trash import NOTE_FILE
from tests.strangers import QUICK, bytes_like, soon, spoiled
from trainers.engine.estimate.step_times import FILE, find_similar
from trainers.engine.run.checkpoint import TrainingState
from trainers.engine.run.folder import Run
from ui.batch.folder_record import Record
from ui.cli.adapters.inspect import show_file
from ui.web.mix.recipes import recipe_of_picture, shot_of_recipe
from ui.web.mix.remembered import Remembered


def read_or_refuse(*reads: Callable[[], object]) -> None:
    """Each gives a value, or refuses in a sentence."""
    for read in reads:
        try:
            with soon():
                read()
        except BadInput as refusal:
            assert str(refusal).strip()


def encoded(kind: str) -> bytes:
    picture = Image.effect_mandelbrot((24, 16), (-2.0, -1.5, 1.0, 1.5), 50).convert("RGB")
    if kind in ("GIF", "PNG"):
        picture = picture.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture.save(file, kind, exif=exif)
    return file.getvalue()


KINDS = {kind: encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM")}


@QUICK
@given(st.sampled_from([*KINDS]).flatmap(lambda kind: bytes_like(KINDS[kind])) | st.binary())
def test_any_bytes_are_a_picture_or_a_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    read_or_refuse(
        lambda: open_picture(path),
        lambda: picture_size(path, decode=True),
        lambda: read_recipe(path),
        lambda: recipe_of_picture(path),
    )


REGION = "0,0,0.5,1@1: a dog"
RECIPE = json.loads(
    json.dumps(
        shot_to_dict(
            Shot(
                "a cat",
                adapters=(("robot.safetensors", 0.8), ("ink.safetensors:style", 1.0)),
                method=compose.Switch(interval=2),
                regions=(REGION,),
                avoid=("a dog",),
                init_image="start.png",
                mask="mask.png",
                second_pass=2.0,
                clip_skip=2,
            )
        )
    )
)


def with_text(path: Path, text: str) -> Path:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("studio", text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=texts)
    return path


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(tmp_path_factory.mktemp("space") / "space")


@QUICK
@given(spoiled(RECIPE))
def test_any_recipe_in_a_picture_is_a_shot_or_a_sentence(
    space: Workspace, tmp_path: Path, recipe: Any
) -> None:
    path = with_text(tmp_path / "a.png", json.dumps(recipe))
    read_or_refuse(
        lambda: shot_of_recipe(space, recipe_of_picture(path)[0]),
        lambda: compose.shot_from_dict(read_recipe(path)),
        lambda: show_file(path, as_json=False, base=None),
        lambda: show_file(path, as_json=True, base=None),
    )


TRAINING: dict[str, Any] = {
    "kind": "lora",
    "trigger": "a robot",
    "pictures": ["photos", "more"],
    "weights": [1.0, 2.0],
    "base": "sketch",
    "fingerprint": "abc",
    "examples": "def",
    "options": {"rank": 4, "alpha": 2.0},
    "recipe": {"steps": 10, "lr": 1e-3, "sample_prompts": ["a"], "optimizer": "adamw"},
    "loading": {"dtype": "fp32"},
}


@QUICK
@given(spoiled(TRAINING))
def test_any_tables_are_a_training_or_a_sentence(table: Any) -> None:
    def checked() -> None:
        request = from_table(table)
        trainers.kind_of(request)
        draft(request.recipe)

    read_or_refuse(checked)


SOUND_TOML = to_toml(from_table(TRAINING)).encode()


@QUICK
@given(bytes_like(SOUND_TOML))
def test_any_bytes_are_a_runs_recipe_or_a_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "recipe.toml").write_bytes(data)
    run = Run(tmp_path)
    read_or_refuse(lambda: read_request(tmp_path), run.read, lambda: trainers.base_of(tmp_path))


def training() -> TrainingState:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return TrainingState({"layer": layer}, optimizer, None)


STATE = json.loads(json.dumps({"version": 1, "step": 3, "seconds": 1.5, **training().as_json()}))
TENSORS = save(training().tensors())


@QUICK
@given(spoiled(STATE), st.just(TENSORS) | bytes_like(TENSORS))
def test_any_checkpoint_is_restored_or_refused(tmp_path: Path, plain: Any, tensors: bytes) -> None:
    (tmp_path / "state.json").write_text(json.dumps(plain))
    (tmp_path / "state.safetensors").write_bytes(tensors)
    read_or_refuse(lambda: Run(tmp_path).load_checkpoint(tmp_path, training()))


BATCH = {
    "version": 1,
    "bases": {"sketch": {"fingerprint": "a", "dtype": "fp32", "vae": "", "size": {"64x64": 4}}},
}


@QUICK
@given(spoiled(BATCH))
def test_any_record_of_a_batch_gives_groups_or_a_sentence(tmp_path: Path, record: Any) -> None:
    def grouped() -> None:
        (tmp_path / "batch.json").write_text(json.dumps(record))
        shots = [Shot("a cat", width=64, height=64)] * 9
        for _, sizes in Record(tmp_path).read().values():
            groups = compose.group_shots(shots, sizes)
            assert sorted(number for one in groups for number in one.numbers) == [*range(9)]

    read_or_refuse(grouped)


@QUICK
@given(spoiled({"place": "adapters/a.safetensors", "when": 1.5}))
def test_any_note_of_the_trash_is_passed_over(space: Workspace, note: Any) -> None:
    folder = space.trash / "1-abc"
    folder.mkdir(exist_ok=True)
    (folder / "a.safetensors").touch()
    (folder / NOTE_FILE).write_text(json.dumps(note))
    list_trash(space)


SETTINGS = {
    "device": "cpu",
    "base": "a",
    "dtype": "fp32",
    "quantize": "none",
    "processes": 1,
}


@QUICK
@given(spoiled({"settings": SETTINGS, "step": 0.5}))
def test_any_times_of_earlier_runs_are_passed_over(tmp_path: Path, entry: Any) -> None:
    (tmp_path / "a").mkdir(exist_ok=True)
    (tmp_path / "a" / FILE).write_text(json.dumps(entry))
    find_similar(tmp_path, SETTINGS)


@QUICK
@given(spoiled({"job": 1, "own": 2, "picture": "a", "mix": [{"name": "a", "strength": 1.0}]}))
def test_anything_that_a_page_remembers_is_read(found: Any) -> None:
    Remembered.read(json.dumps(found))


ROWS = [{"file_name": "a.png", "text": "a cat"}, {"file_name": "b.png", "caption": "a dog"}]


@QUICK
@given(spoiled(ROWS), st.binary(max_size=60), st.sampled_from(METADATA_FILES), st.booleans())
def test_any_captions_are_read_or_said(
    tmp_path: Path, rows: Any, data: bytes, name: str, lines: bool
) -> None:
    text = "\n".join(json.dumps(row) for row in rows).encode()
    (tmp_path / name).write_bytes(text if lines else b"file_name,text\n" + data)
    read_or_refuse(lambda: metadata_captions(tmp_path / name))
