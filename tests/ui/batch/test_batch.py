"""Batches from end to end on a tiny random SDXL: what they leave behind, and going on with them."""

import argparse
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.picture_file import read_recipe
from studio.requests.shot import Shot
from tests.benchmarks import kills
from tests.compose.conftest import write_lora
from ui import cli
from ui.batch.contact_sheet import _table
from ui.batch.folder_record import Record
from ui.batch.plan import plan_batch
from ui.batch.runner import PictureWritten, run_batch
from ui.shared import loading
from ui.shared.folder_lock import only_process
from ui.shared.loading import open_base

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def faces(sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of twelve shots, of which two are one picture, and its adapters."""
    folder = tmp_path_factory.mktemp("faces")
    for name, seed in (("one", 1), ("two", 2)):
        write_lora(sdxl_folder, folder / f"{name}.safetensors", rank=4, alpha=4, seed=seed)
    manifest = folder / "faces.toml"
    manifest.write_text(
        f'base = "{sdxl_folder}"\nsteps = 1\nprompts = ["a cat", "a dog"]\nseeds = [1, 2]\n'
        'mixes = [[], ["one.safetensors:0.5"], ["two.safetensors"]]\n'
    )
    return manifest


def ended(*words: object) -> int:
    with pytest.raises(SystemExit) as error:
        cli.main([str(word) for word in words])
    return int(error.value.code or 0)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_manifest_becomes_a_folder_of_pictures(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("batch", faces, "--out", tmp_path / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["made"] == 12
    lines = [
        json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().split("\n")[:-1]
    ]
    assert len(lines) == 12 and all(line["made"] for line in lines)
    for line in lines:
        made = read_recipe(tmp_path / "out" / line["file"])
        alike = (
            "prompt",
            "negative",
            "seed",
            "steps",
            "guidance",
            "scheduler",
            "method",
            "denoise",
        )
        assert {name: made[name] for name in alike} == {name: line[name] for name in alike}
        assert isinstance(made["base"], dict)
        assert (made["base"]["source"], line["init_image"]) == (line["base"]["source"], None)
    assert {(line["width"], line["height"]) for line in lines} == {(None, None)}  # the base's own
    page = (tmp_path / "out/sheet.html").read_text()
    assert all(f'src="{line["file"]}"' in page for line in lines)
    with Image.open(tmp_path / "out/sheet.png") as sheet:
        assert sheet.width > 3 * 168 and sheet.height > 4 * 168


def test_a_folder_that_holds_a_batch_is_not_begun_again(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("batch", faces, "--out", tmp_path / "out") == 0
    (tmp_path / "out" / ".film.mkv.0123abcd.part").write_bytes(b"of another program")
    before = files(tmp_path / "out")
    assert ended("batch", faces, "--out", tmp_path / "out") == 2
    assert "go on with it by --resume" in capsys.readouterr().err
    for name in ("sheet.png", "results.jsonl", next((tmp_path / "out").glob("a-*.png")).name):
        (tmp_path / "out" / f".{name}.0123abcd.part").write_bytes(b"half")  # of one that was killed
    assert ended("batch", faces, "--out", tmp_path / "out", "--resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["made"] == 0
    assert files(tmp_path / "out") == before


def test_what_is_missing_is_made_again_bit_for_bit(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compose.engine.evaluate.MOST_ON_CPU", 4 * 64)  # four rows: two shots
    assert ended("batch", faces, "--out", tmp_path) == 0
    whole = files(tmp_path)
    pictures = sorted(tmp_path.glob("*.png"))
    for path in (pictures[0], pictures[5], tmp_path / "results.jsonl", tmp_path / "sheet.html"):
        path.unlink()
    assert ended("batch", faces, "--out", tmp_path, "--resume") == 0
    assert files(tmp_path) == whole


def test_where_bits_differ_from_run_to_run_only_what_is_missing_is_drawn(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import compose.engine.batch.rendering as many

    monkeypatch.setattr("ui.batch.runner._repeats", lambda base: False)  # as on a GPU
    assert ended("batch", faces, "--out", tmp_path) == 0
    pictures = sorted(tmp_path.glob("a-*.png"))
    stamps = {path: path.stat().st_mtime_ns for path in pictures}
    missing = pictures[0], pictures[5]
    for path in missing:
        path.unlink()
    decode, drawn = many.decode, []

    def counted(base: Base, *given: object, **named: object) -> object:
        drawn.append(1)
        return decode(base, *given, **named)  # pyright: ignore

    monkeypatch.setattr(many, "decode", counted)
    assert ended("batch", faces, "--out", tmp_path, "--resume") == 0
    assert len(drawn) == len(missing)
    assert all(path.exists() for path in pictures)
    assert all(path.stat().st_mtime_ns == stamps[path] for path in set(pictures) - set(missing))


def test_what_is_added_to_a_batch_is_grouped_as_well_and_what_was_there_as_before(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compose.engine.evaluate.MOST_ON_CPU", 4 * 64)  # four rows: two shots
    manifest = faces.with_name("growing.toml")
    manifest.write_text(faces.read_text() + "width = 64\n")
    assert ended("batch", manifest, "--out", tmp_path) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("a-*.png")}
    next(tmp_path.glob("a-dog-*.png")).unlink()
    manifest.write_text(faces.read_text() + "width = [64, 32]\n")
    # Another machine would make other groups; those that were there count.
    monkeypatch.setattr("compose.engine.evaluate.MOST_ON_CPU", 8 * 32)
    assert ended("batch", manifest, "--out", tmp_path, "--resume") == 0
    record = json.loads((tmp_path / "batch.json").read_text())
    assert [one["size"] for one in record["bases"].values()] == [{"64x64": 2, "32x64": 4}]
    assert len(list(tmp_path.glob("a-*.png"))) == 24
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_batch_goes_on_with_the_vae_that_it_was_begun_with(
    faces: Path, sd1_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = faces.with_name("short.toml")
    manifest.write_text(f'{faces.read_text().splitlines()[0]}\nsteps = 1\nprompt = "a cat"\n')
    words = ("batch", manifest, "--out", tmp_path, "--device", "cpu")
    vae = ("--vae", sd1_folder / "vae")
    assert ended(*words, *vae) == 0
    (made,) = tmp_path.glob("a-*.png")
    picture = made.read_bytes()
    made.unlink()
    capsys.readouterr()
    assert ended(*words, "--resume") == 2
    assert "with another VAE" in capsys.readouterr().err
    assert ended(*words, *vae, "--resume") == 0
    assert made.read_bytes() == picture


def test_no_base_of_a_batch_may_change_before_it_goes_on(
    faces: Path, sd1_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = faces.with_name("two.toml")
    bases = faces.read_text().splitlines()[0].partition(" = ")[2], f'"{sd1_folder}"'
    shots = (f"[[shots]]\nbase = {base}\n" for base in bases)
    manifest.write_text('steps = 1\nprompt = "a cat"\n' + "".join(shots))
    words = ("batch", manifest, "--out", tmp_path, "--device", "cpu")
    assert ended(*words) == 0
    for path in tmp_path.glob("a-*.png"):
        path.unlink()
    for other in (("--dtype", "bf16"), ("--quantize", "fp8")):
        assert ended(*words, "--resume", *other) == 2
        assert "in another precision (fp32)" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("a-*.png"))


def test_two_processes_killed_in_the_middle_end_with_the_files_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compose.engine.evaluate.MOST_ON_CPU", kills.TWO_SHOTS)
    asked = argparse.Namespace(kills=1, processes=2, seed=3, steps=2)
    assert kills.torment(tmp_path, asked)


def test_a_shot_that_fails_is_told_and_stops_nothing(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import compose.engine.batch.rendering as many

    decode: Callable = many.decode

    def no_dogs(base: object, resolved: object, latents: object, **named: object) -> object:
        shot = resolved.shot  # type: ignore[attr-defined]
        if shot.prompt == "a dog" and shot.seed == 2:
            raise BadInput("no dogs.")
        return decode(base, resolved, latents, **named)

    monkeypatch.setattr(many, "decode", no_dogs)
    assert ended("batch", faces, "--out", tmp_path / "out", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["made"], told["failed"]) == (9, 3)
    assert {one["reason"] for one in told["failures"]} == {"no dogs."}
    monkeypatch.undo()
    assert ended("batch", faces, "--out", tmp_path / "out", "--resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["made"] == 3


def test_a_dry_run_tells_the_cost_and_makes_nothing(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("batch", faces, "--out", tmp_path / "out", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pictures"], told["there already"], told["evaluations of the UNet"]) == (12, 0, 12)
    assert told["seconds"] > 0
    assert not (tmp_path / "out").exists()
    costly = faces.with_name("costly.toml")
    costly.write_text(
        faces.read_text().replace("steps = 1", "steps = 3")
        + 'methods = ["composite"]\n[[shots]]\nseeds = [1]\nprompts = ["a cat"]\n'
        'mixes = [["one.safetensors", "two.safetensors"]]\n'
    )
    assert ended("batch", costly, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["evaluations of the UNet"] == 3 * 2


def test_a_cluster_is_given_work_by_one_process(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ended("batch", faces, "--out", tmp_path / "out", "--ray", "local") == 2
    assert "--ray is for one process" in capsys.readouterr().err


def test_mistakes_are_told_without_pytorch(faces: Path, sd1_folder: Path, tmp_path: Path) -> None:
    manifest = faces.with_name("quick.toml")
    manifest.write_text(
        f'base = "{sd1_folder}"\nprompt = "a cat"\nmixes = [["one.safetensors"]]\nwidth = 65\n'
        "[[shots]]\n[[shots]]\nmixes = [[]]\nsteps = 2\n"
    )
    program = (
        "import sys\nfrom pathlib import Path\nfrom ui.batch.plan import plan_batch\n"
        "try:\n    plan_batch(Path(sys.argv[1]), None, resume=False)\n"
        "except ValueError as error:\n    print(error, 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(manifest)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert "line 3, mixes: the adapter" in said and "Stable Diffusion XL" in said
    assert "line 4, width: 65 is not a multiple of 8" in said
    assert said.endswith("False\n")


def test_what_the_base_cannot_make_is_told_before_the_first_picture(
    faces: Path, sd1_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = faces.with_name("wrong.toml")
    manifest.write_text(
        f'base = "{sd1_folder}"\nprompt = "a cat"\n[[shots]]\nwidth = 100\n'
        '[[shots]]\nmixes = [["one.safetensors"]]\n[[shots]]\n'
    )
    assert ended("batch", manifest, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "wrong.toml, line 4, width: 100 is not a multiple of 8" in said
    assert "wrong.toml, line 6, mixes: the adapter" in said and "Stable Diffusion XL" in said
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_question_at_the_end_of_a_mistake_stays_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.toml").write_text('prompt = "a"\nsteqs = 3\n')
    assert ended("batch", tmp_path / "m.toml") == 2
    assert capsys.readouterr().err.endswith("did you mean steps?\n")


@pytest.mark.parametrize(
    "content", [b"\xff", b'{"version": 1, "bases": {"a": {"size": {"8x8": ""}}}}']
)
def test_a_damaged_record_is_named(
    content: bytes, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "batch.json").write_bytes(
        content.replace(b'"size"', b'"fingerprint": "", "dtype": "", "apart": [], "size"')
    )
    assert ended("batch", faces, "--out", tmp_path, "--resume") == 2
    assert "batch.json is damaged" in capsys.readouterr().err


def test_a_record_of_another_version_is_not_called_damaged(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.path.write_text('{"version": 2}')
    with pytest.raises(BadInput, match="another version") as error:
        record.read()
    assert "damaged" not in str(error.value)


def test_one_base_is_open_at_a_time(
    sdxl_folder: Path, sd1_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[weakref.ref[Base]] = []

    def open_alone(source: str, given: Mapping[str, object]) -> Base:
        assert not any(one() for one in opened)
        base = open_base(source, given)
        opened.append(weakref.ref(base))
        return base

    monkeypatch.setattr(loading, "open_base", open_alone)
    manifest = tmp_path / "two.toml"
    manifest.write_text(f'prompt = "a cat"\nsteps = 1\nbase = ["{sdxl_folder}", "{sd1_folder}"]\n')
    plan = plan_batch(manifest, tmp_path / "out", resume=False)
    made = [one for one in run_batch(plan, {}) if isinstance(one, PictureWritten)]
    assert len(made) == 2 and len(opened) > 2


@pytest.mark.parametrize(
    ("field", "values", "labels"),
    [
        ("clip_skip", (1, 2), ("clip_skip 1", "clip_skip 2")),
        ("avoid", (("fog",), ("fog", "rain")), ("avoid fog", "avoid fog, rain")),
        ("syntax", ("plain", "a1111"), ("syntax plain", "syntax a1111")),
        (
            "regions",
            (("0,0,1,1: a cat",), ("data:image/png;base64,iVB+/w==@1: a cat",)),
            ("regions 0,0,1,1: a cat", "regions mask@1: a cat"),
        ),
    ],
)
def test_whatever_differs_has_a_column(field: str, values: tuple, labels: tuple) -> None:
    table, captions = _table([Shot("a cat", **{field: one}) for one in values])
    assert [label.split("\n")[1] for label in table.columns] == list(labels)
    assert not any(captions)


def test_pictures_that_follow_one_another_say_what_they_show(faces: Path, tmp_path: Path) -> None:
    rows = (
        "a cat,1,one.safetensors:0.5,",
        "a <dog>,2,,",
        "a cow,3,one.safetensors + two.safetensors,merge combination=ties",
    )
    manifest = faces.with_name("apart.csv")
    base = faces.read_text().split('"')[1]
    head = "prompt,seed,adapters,method,base,steps\n"
    manifest.write_text(head + "".join(f"{row},{base},1\n" for row in rows))
    assert ended("batch", manifest, "--out", tmp_path) == 0
    page = (tmp_path / "sheet.html").read_text()
    said = [part.partition("</p>")[0] for part in page.split("<p>")[1:]]
    assert said == [
        "a cat, seed 1\none 0.5",
        "a &lt;dog&gt;, seed 2\nno adapter",
        "a cow, seed 3\none + two\ncombination ties",
    ]


def test_a_folder_is_one_batch_at_a_time(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with only_process(tmp_path / "out"):
        assert ended("batch", faces, "--out", tmp_path / "out") == 2
        assert "is being made by another process" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert ended("batch", faces, "--out", tmp_path / "out") == 0


def test_nothing_is_written_through_a_link_in_the_place_of_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr("ui.shared.folder_lock.gettempdir", lambda: str(tmp_path / "locks"))
    with only_process(tmp_path / "out"):
        (lock,) = (tmp_path / "locks").iterdir()
    lock.unlink(missing_ok=True)
    (tmp_path / "precious").write_text("precious")
    lock.symlink_to(tmp_path / "precious")
    with pytest.raises(BadInput, match="cannot be locked"), only_process(tmp_path / "out"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"
