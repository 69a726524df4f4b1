"""The workspace's folder: what is taken in, listed, deleted and brought back, and what is not."""

import json
import os
import sqlite3
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from studio.adapters.adapter import Adapter
from studio.adapters.delta import Delta, LowRank
from studio.adapters.describe import describe
from studio.adapters.formats.convert import to_kohya
from studio.adapters.load import load_adapter
from studio.adapters.tensor_file import write_tensors
from studio.dataset.pictures import read_pictures
from studio.errors import BadInput
from studio.json_value import JSON
from studio.workspace import (
    Workspace,
    adapter_path,
    add_adapter,
    add_base,
    add_upload,
    child_path,
    clean_name,
    create_set,
    delete,
    delete_adapter,
    delete_picture,
    delete_set,
    delete_upload,
    empty_trash,
    export_adapter,
    forget_base,
    get_adapter,
    get_picture,
    get_run,
    get_set,
    import_adapter,
    label_adapter,
    list_adapters,
    list_bases,
    list_checkpoints,
    list_pictures,
    list_samples,
    list_sets,
    list_trash,
    next_picture_path,
    open_workspace,
    path_in_workspace,
    read_labels,
    read_log,
    remember_base,
    rename_adapter,
    thumbnail,
    undelete,
    upload_thumbnail,
    write_caption,
    write_label,
)
from studio.workspace.database import read_database, write_database

LAYER = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
CONTENT, STYLE = (
    f"unet.up_blocks.1.attentions.{n}.transformer_blocks.0.attn1.to_q" for n in (0, 2)
)
HOSTILE = [
    "..",
    ".",
    "",
    "../outside",
    "robot/../../outside",
    "/etc/passwd",
    "..\\outside",
    "C:\\outside",
    "robot\0",
    "robot\n",
    ".hidden",
    "~",
    "con",
    "COM1.txt",
    "robot.",
    "robot ",
    "x" * 300,
    "<img src=x>",
    "e\u0301",  # an accent that the disk may write in another way
    "\u202egnp",  # text that reads backwards
]


def an_adapter(
    seed: int = 0, *, family: str = "sdxl", layers: tuple[str, ...] = (LAYER,)
) -> Adapter:
    generator = torch.Generator().manual_seed(seed)

    def delta() -> Delta:
        down = torch.randn(2, 8, generator=generator)
        return LowRank(down, torch.randn(8, 2, generator=generator), 2.0)

    return Adapter(
        deltas={layer: delta() for layer in layers},
        kind="lora",
        family=family,
        base="sketch",
        triggers=("sks robot",),
        recipe={"steps": 40},
        preview=Image.new("RGB", (64, 48), "red"),
    )


def kept(space: Workspace, name: str, adapter: Adapter | None = None) -> bytes:
    """Put an adapter into the library; returns its bytes."""
    path = (adapter or an_adapter()).save(space.root.parent / "elsewhere.safetensors")
    assert add_adapter(space, path, name=name).name == name
    return path.read_bytes()


# Opening.


def test_a_workspace_is_made_once_and_opened_again(tmp_path: Path) -> None:
    made = open_workspace(tmp_path / "deep" / "space")
    assert open_workspace(tmp_path / "deep" / "space") == made
    assert {path.name for path in made.root.iterdir() if path.is_dir()} == {
        "adapters",
        "cache",
        "logs",
        "pictures",
        "prompts",
        "runs",
        "trash",
        "uploads",
    }


def test_a_folder_of_other_things_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(BadInput, match="holds other things"):
        open_workspace(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]
    with pytest.raises(BadInput, match="is a file"):
        open_workspace(tmp_path / "thesis.doc")


def test_a_database_that_is_damaged_or_newer_is_refused(tmp_path: Path) -> None:
    space = open_workspace(tmp_path / "space")
    with closing(sqlite3.connect(space.database)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(BadInput, match="newer Studio"):
        open_workspace(space.root)
    space.database.write_bytes(b"no database at all" * 100)
    with pytest.raises(BadInput, match=r"is damaged .*: move it away"):
        open_workspace(space.root)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_IOERR_SHMSIZE, r"cannot be read or written \(oh\): is its disk full"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "held by another process"),
        (sqlite3.SQLITE_CANTOPEN_ISDIR, "cannot be written: oh"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "cannot be written: oh"),
        (sqlite3.SQLITE_CORRUPT_INDEX, r"is damaged \(oh\): move it away"),
    ],
)
def test_an_error_of_the_database_is_a_sentence_whatever_its_extended_code(
    space: Workspace, code: int, words: str
) -> None:
    error = sqlite3.OperationalError("oh")
    error.sqlite_errorcode = code
    with pytest.raises(BadInput, match=words), read_database(space):
        raise error


def test_a_database_that_another_process_holds_is_named(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.workspace.database.WAIT", 0.05)
    with (
        write_database(space),
        pytest.raises(BadInput, match="held by another process"),
        write_database(space),
    ):
        pass


def test_a_part_that_is_a_link_is_refused(tmp_path: Path) -> None:
    space = open_workspace(tmp_path / "space")
    space.adapters.rmdir()
    (tmp_path / "outside").mkdir()
    space.adapters.symlink_to(tmp_path / "outside")
    with pytest.raises(BadInput, match="leads out of the workspace"):
        open_workspace(space.root)


# Names.

ASKING_BY_NAME: dict[str, Callable[[Workspace, str], object]] = {
    "get_adapter": get_adapter,
    "adapter_path": adapter_path,
    "rename from": lambda space, name: rename_adapter(space, name, "new"),
    "rename to": lambda space, name: rename_adapter(space, "robot", name),
    "delete_adapter": delete_adapter,
    "export_adapter": lambda space, name: export_adapter(space, name, to="studio"),
    "get_picture": get_picture,
    "get_picture of a day": lambda space, name: get_picture(space, f"2026-11-21/{name}"),
    "get_picture on a day": lambda space, name: get_picture(space, f"{name}/00001-a.png"),
    "list_pictures": lambda space, name: get_picture(space, f"{name}"),
    "get_set": get_set,
    "add_upload": lambda space, name: add_upload(space, name, space.root.parent / "a.png"),
    "delete_upload": lambda space, name: delete_upload(space, "photos", name),
    "write_caption": lambda space, name: write_caption(space, "photos", name, "a"),
    "delete_set": delete_set,
    "get_run": get_run,
    "read_log": lambda space, name: read_log(space, name),
    "undelete": undelete,
    "delete": lambda space, name: delete(space, f"adapters/{name}"),
}


@pytest.mark.parametrize("asking", ASKING_BY_NAME)
def test_no_name_reaches_out_of_the_workspace(space: Workspace, asking: str) -> None:
    outside = space.root.parent / "outside"
    outside.mkdir()
    for name in ("outside.png", "outside.safetensors", "log.jsonl", "what.json", "00001-a.png"):
        (outside / name).write_text("secret")
    create_set(space, "photos")
    kept(space, "robot")
    before = sorted(outside.rglob("*")), space.database.exists()
    links = {
        "adapters": "link.safetensors",
        "runs": "link",
        "uploads": "link",
        "trash": "link",
        "pictures": "link",
    }
    for folder, name in links.items():
        (space.root / folder / name).symlink_to(outside)
    (space.uploads / "photos" / "link.png").symlink_to(outside / "outside.png")
    names = [*HOSTILE, "link", str(outside), "../../outside/outside"]
    for name in names if asking == "rename to" else [*names, "link.png", "outside"]:
        with pytest.raises(BadInput):
            ASKING_BY_NAME[asking](space, name)
    assert (sorted(outside.rglob("*")), space.database.exists()) == before
    assert all(path.read_text() == "secret" for path in outside.iterdir())


def test_links_and_hidden_files_are_not_listed(space: Workspace, tmp_path: Path) -> None:
    kept(space, "robot")
    outside = tmp_path / "outside"
    (outside / "2026-11-21").mkdir(parents=True)
    an_adapter().save(outside / "secret.safetensors")
    Image.new("RGB", (8, 8)).save(outside / "2026-11-21" / "00001-secret.png")
    (space.adapters / "a.safetensors").symlink_to(outside / "secret.safetensors")
    an_adapter().save(space.adapters / ".part.safetensors")
    (space.pictures / "2026-11-21").symlink_to(outside / "2026-11-21")
    (space.uploads / "set").symlink_to(outside / "2026-11-21")
    (space.trash / "1-a").symlink_to(outside)
    assert [one.name for one in list_adapters(space)] == ["robot"]
    assert list_pictures(space) == list_sets(space) == list_trash(space) == []


# Every example cleans up behind itself, so that they can share a workspace.
ON_ONE_DISK = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@given(st.text(max_size=40) | st.sampled_from(HOSTILE))
@example("a/b")
@ON_ONE_DISK
def test_a_name_is_refused_or_lies_in_its_folder(space: Workspace, name: str) -> None:
    try:
        path = child_path(space.adapters, name)
    except BadInput:
        return
    assert Path(os.path.normpath(path)).parent == space.adapters
    path.write_text("a")
    assert [one.name for one in space.adapters.iterdir()] == [name]
    path.unlink()


@given(st.text(max_size=200) | st.sampled_from(HOSTILE))
@ON_ONE_DISK
def test_any_text_becomes_a_name_that_a_file_can_have(space: Workspace, text: str) -> None:
    name = clean_name(text, otherwise="nothing")
    path = child_path(space.adapters, f"{name}.safetensors")
    path.write_text("a")
    path.unlink()
    assert clean_name(name, otherwise="other") == name
    assert unicodedata.is_normalized("NFC", name)


def test_names_of_all_scripts_are_kept() -> None:
    for name in ("Röbot (v2), final", "ロボット", "रोबोट", "a_b-c.d+e"):
        assert clean_name(name, otherwise="") == name
    assert clean_name("../Röbot: the/best?.", otherwise="") == "Röbot the best"


@given(st.lists(st.sampled_from(["..", ".", "", "adapters", "robot", "/", "~", "x/y"]), max_size=5))
def test_a_place_is_refused_or_lies_in_the_workspace(parts: list[str]) -> None:
    space = Workspace(Path("/nowhere/at all"))
    try:
        path = path_in_workspace(space, "/".join(parts))
    except BadInput:
        return
    assert Path(os.path.normpath(path)).is_relative_to(space.root)


# The library.


def test_the_library_is_told_from_headers(space: Workspace) -> None:
    data = kept(space, "robot")
    kept(space, "halves", an_adapter(1, layers=(CONTENT, STYLE)))
    os.utime(space.adapters / "robot.safetensors", (1_000_000, 1_000_000))
    halves, robot = list_adapters(space)
    assert (robot.name, robot.kind, robot.family, robot.base) == ("robot", "lora", "sdxl", "sketch")
    assert (robot.triggers, robot.steps, robot.parameters) == (("sks robot",), 40, 2 * 8 * 2)
    assert (robot.bytes, robot.halves, robot.problem) == (len(data), (), "")
    assert robot.preview
    with Image.open(robot.preview) as preview:
        assert preview.getpixel((5, 5)) == (255, 0, 0)
    assert halves.halves == ("content", "style")
    assert adapter_path(space, "halves:style") == f"{halves.path}:style"
    assert load_adapter(adapter_path(space, "halves:style")).deltas.keys() == {STYLE}
    with pytest.raises(BadInput, match="content or style"):
        adapter_path(space, "halves:../../x")


def test_what_was_listed_is_not_read_again_until_it_changes(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(space, "robot")
    first = list_adapters(space)
    with monkeypatch.context() as closed:
        closed.setattr("studio.workspace.adapters.describe", None)
        assert list_adapters(space) == first == [get_adapter(space, "robot")]
    an_adapter(2, family="sd1").save(space.adapters / "robot.safetensors")
    (changed,) = list_adapters(space)
    assert changed.family == "sd1" and changed.preview != first[0].preview
    assert changed.preview and [changed.preview] == list((space.cache / "previews").iterdir())
    changed.preview.unlink()
    assert list_adapters(space) == [changed] and changed.preview.exists()


def test_a_new_library_is_remembered_in_one_transaction(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        an_adapter().save(space.adapters / f"a{number}.safetensors")
    written: list[Workspace] = []

    def write(space: Workspace, *, durable: bool) -> AbstractContextManager[sqlite3.Connection]:
        written.append(space)
        return write_database(space, durable=durable)

    monkeypatch.setattr("studio.workspace.adapters.write_database", write)
    assert len(list_adapters(space)) == len(list_adapters(space)) == 5
    assert len(written) == 1


def test_the_library_can_be_asked_for_one_family(space: Workspace) -> None:
    kept(space, "small", an_adapter(1, family="sd1"))
    kept(space, "large", an_adapter(2, family="sdxl"))
    kept(space, "any", an_adapter(3, family=""))
    assert {one.name for one in list_adapters(space, family="sd1")} == {"small", "any"}


def test_a_damaged_file_is_listed_with_its_problem(space: Workspace) -> None:
    data = kept(space, "robot")
    (space.adapters / "half.safetensors").write_bytes(data[: len(data) // 2])
    (space.adapters / "a<b.safetensors").write_bytes(data)
    problems = {one.name: one.problem for one in list_adapters(space)}
    assert problems["robot"] == ""
    assert "only part of one" in problems["half"] or "promises" in problems["half"]
    assert "cannot be a name" in problems["a<b"]


def test_a_file_is_taken_in_as_it_is(space: Workspace, tmp_path: Path) -> None:
    tensors, metadata = to_kohya(an_adapter())
    write_tensors(tmp_path / "From the web (v1).safetensors", tensors, metadata)
    taken = import_adapter(space, tmp_path / "From the web (v1).safetensors")
    assert taken.name == "From the web (v1)"
    assert taken.path.read_bytes() == (tmp_path / "From the web (v1).safetensors").read_bytes()
    assert import_adapter(space, tmp_path / "From the web (v1).safetensors") == taken
    assert import_adapter(space, tmp_path / "From the web (v1).safetensors", name="b").name == "b"
    other = an_adapter(1).save(tmp_path / "b.safetensors")
    assert import_adapter(space, other).name == "b-2"
    assert import_adapter(space, other).name == "b-2"


def test_a_file_of_peft_keeps_its_strength(space: Workspace, tmp_path: Path) -> None:
    """peft writes alpha into a file beside; a library of single files must not lose it."""
    adapter = an_adapter().deltas[LAYER]
    assert isinstance(adapter, LowRank)
    folder = tmp_path / "of peft"
    folder.mkdir()
    path = f"base_model.model.{LAYER.removeprefix('unet.')}"
    tensors = {f"{path}.lora_A.weight": adapter.down, f"{path}.lora_B.weight": adapter.up}
    save_file(
        {key: one.detach() for key, one in tensors.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 6.0}))
    taken = import_adapter(space, folder)
    assert taken.name == "of peft"
    expected = 6.0 / 2 * adapter.up @ adapter.down
    (folder / "unet").mkdir()
    for file in folder.glob("adapter_*"):  # as peft's training scripts have it
        file.rename(folder / "unet" / file.name)
    save_file(
        {key.removeprefix("base_model.model."): one for key, one in tensors.items()},
        folder / "unet" / "adapter_model.safetensors",
    )
    for name in (taken.name, import_adapter(space, folder, name="in parts").name):
        (delta,) = load_adapter(adapter_path(space, name)).deltas.values()
        assert torch.allclose(delta.dense(torch.zeros(8, 8)), expected)


def refused(folder: Path) -> dict[str, Path]:
    """Files that are no sound adapters, by what is wrong with them."""
    whole = an_adapter().save(folder / "whole.safetensors").read_bytes()
    files = {"empty": b"", "text": b"hello", "truncated": whole[:-5], "half a header": whole[:40]}
    for name, data in files.items():
        (folder / f"{name}.safetensors").write_bytes(data)
    torch.save({"lora": torch.ones(2)}, folder / "pickle.safetensors")
    torch.save({"lora": torch.ones(2)}, folder / "pickle.pt")
    save_file({"encoder.layer.0.weight": torch.ones(2, 2)}, folder / "wrong keys.safetensors")
    nan = torch.full((2, 8), float("nan"))
    pair = {f"{LAYER}.lora_A.weight": nan, f"{LAYER}.lora_B.weight": torch.ones(8, 2)}
    save_file(pair, folder / "nan.safetensors")
    unfit = {f"{LAYER}.lora_A.weight": torch.ones(3, 8), f"{LAYER}.lora_B.weight": torch.ones(8, 2)}
    save_file(unfit, folder / "ranks differ.safetensors")
    (folder / "whole.safetensors").unlink()
    (folder / "a folder").mkdir()
    found = {path.name: path for path in folder.iterdir()}
    return found | {"absent": folder / "absent.safetensors"}


def test_what_is_no_sound_adapter_is_refused_and_not_kept(space: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "from the web"
    folder.mkdir()
    for what, path in refused(folder).items():
        with pytest.raises(BadInput) as wrong:
            import_adapter(space, path)
        assert str(space.cache) not in str(wrong.value), what
    assert list(space.adapters.iterdir()) == []
    assert list(space.cache.iterdir()) == []


def test_what_is_noted_of_an_adapter_stays_with_it_and_leaves_its_file_alone(
    space: Workspace, tmp_path: Path
) -> None:
    file = replace(an_adapter(), triggers=("sks robot",)).save(tmp_path / "robot.safetensors")
    added = add_adapter(space, file, name="robot")
    data = added.path.read_bytes()
    label_adapter(space, "robot", favourite=True, notes="best", tags=("toy",))
    label_adapter(space, "robot", triggers=("tin",))
    label_adapter(space, "robot", cover="uploads/gone/one.png")
    (found,) = list_adapters(space)
    assert found == get_adapter(space, "robot")
    assert (found.favourite, found.notes, found.tags) == (True, "best", ("toy",))
    assert found.triggers == ("tin",) and found.preview == added.preview
    assert found.path.read_bytes() == data
    exported = load_adapter(export_adapter(space, "robot", to="kohya"))
    assert exported.triggers == ("tin",)
    assert load_adapter(export_adapter(space, "robot", to="studio")).triggers == ("tin",)
    assert rename_adapter(space, "robot", "tin").notes == "best"
    assert undelete(space, delete_adapter(space, "tin")).stem == "tin"
    assert get_adapter(space, "tin").tags == ("toy",)
    delete_adapter(space, "tin")
    assert add_adapter(space, file, name="tin").notes == ""  # as it is another
    with pytest.raises(BadInput, match="there is no adapter robot"):
        label_adapter(space, "robot", notes="")


def test_a_name_brings_no_notes_of_what_had_it_before(space: Workspace) -> None:
    kept(space, "robot")
    label_adapter(space, "robot", triggers=("tin",))
    delete_adapter(space, "robot")
    kept(space, "ink", an_adapter(1))
    assert rename_adapter(space, "ink", "robot").triggers == ("sks robot",)
    id = drawn(space, "a cat")
    write_label(space, f"pictures/{id}", favourite=True)
    delete_picture(space, id)
    assert drawn(space, "a cat") == id and f"pictures/{id}" not in read_labels(space)


def test_a_cover_that_was_deleted_is_shown_no_more(space: Workspace) -> None:
    kept(space, "robot")
    id = drawn(space, "a cat")
    covered = label_adapter(space, "robot", cover=f"pictures/{id}")
    assert covered.preview and "pictures" in str(covered.preview)
    delete_picture(space, id)
    (plain,) = list_adapters(space)
    assert plain.preview and plain.preview.parent.name == "previews"


def test_an_adapter_that_is_deleted_meanwhile_is_not_listed(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a", "b")
    for name in names:
        an_adapter().save(space.adapters / f"{name}.safetensors")

    def tell(path: Path) -> dict[str, JSON]:
        other = names[1 - names.index(path.stem)]
        (space.adapters / f"{other}.safetensors").unlink(missing_ok=True)
        return describe(path)

    monkeypatch.setattr("studio.workspace.adapters.describe", tell)
    assert len(list_adapters(space)) == 1


def test_an_adapter_is_renamed_over_nothing(space: Workspace) -> None:
    data = kept(space, "robot")
    kept(space, "ink", an_adapter(1))
    with pytest.raises(BadInput, match="there is an adapter ink already"):
        rename_adapter(space, "robot", "ink")
    assert rename_adapter(space, "robot", "Röbot 1.safetensors").name == "Röbot 1"
    assert rename_adapter(space, "Röbot 1", "Röbot 2").path.read_bytes() == data
    assert {one.name for one in list_adapters(space)} == {"Röbot 2", "ink"}


@pytest.mark.parametrize("to", ["kohya", "diffusers", "lycoris"])
def test_an_exported_adapter_says_the_same(space: Workspace, to: str) -> None:
    kept(space, "robot")
    original = load_adapter(get_adapter(space, "robot").path).deltas[LAYER].dense(torch.zeros(8, 8))
    path = export_adapter(space, "robot", to=to)  # pyright: ignore[reportArgumentType]
    assert path.name == f"robot-{to}.safetensors"
    written = load_adapter(path).deltas[LAYER].dense(torch.zeros(8, 8))
    assert torch.allclose(written, original, atol=1e-6)


def test_a_dot_in_a_name_begins_no_ending(space: Workspace, tmp_path: Path) -> None:
    an_adapter().save(tmp_path / "robot.v2.safetensors")
    one = import_adapter(space, tmp_path / "robot.v2.safetensors")
    assert (one.name, one.path.name) == ("robot.v2", "robot.v2.safetensors")
    other = tmp_path / "one.safetensors"
    an_adapter(1).save(other)
    # With the ending of a file it is the same name, and never one with two.
    assert import_adapter(space, other, name="ink.v2.safetensors").path.name == "ink.v2.safetensors"
    assert add_adapter(space, one.path, name="ink.v2.safetensors").name == "ink.v2-2"
    assert get_adapter(space, "ink.v2").name == "ink.v2"
    assert rename_adapter(space, "robot.v2", "robot.v2.1").name == "robot.v2.1"
    for to in ("kohya", "diffusers", "lycoris"):
        assert export_adapter(space, "robot.v2.1", to=to).name == f"robot.v2.1-{to}.safetensors"
    assert export_adapter(space, "robot.v2.1", to="studio").name == "robot.v2.1.safetensors"
    id = delete_adapter(space, "robot.v2.1")
    assert list_trash(space)[0].title == "robot.v2.1"
    assert undelete(space, id).name == "robot.v2.1.safetensors"


def test_a_folder_has_no_ending(space: Workspace) -> None:
    assert [create_set(space, "mug v1.5").name for _ in "ab"] == ["mug v1.5", "mug v1.5-2"]
    delete_set(space, "mug v1.5")
    assert list_trash(space)[0].title == "mug v1.5"


@pytest.mark.parametrize("to", ["studio", "kohya"])
def test_a_half_is_exported_alone(space: Workspace, to: str) -> None:
    kept(space, "halves", an_adapter(1, layers=(CONTENT, STYLE)))
    path = export_adapter(space, "halves", to=to, half="style")  # pyright: ignore[reportArgumentType]
    assert path.name == f"halves-style-{to}.safetensors"
    assert list(load_adapter(path).deltas) == [STYLE]
    with pytest.raises(BadInput, match="content or style"):
        export_adapter(space, "halves", to="studio", half="top")


# The trash.


def test_what_was_deleted_comes_back(space: Workspace) -> None:
    data = kept(space, "robot")
    id = delete_adapter(space, "robot")
    assert list_adapters(space) == []
    (deleted,) = list_trash(space)
    assert (deleted.id, deleted.name, deleted.bytes) == (id, "robot.safetensors", len(data))
    assert undelete(space, id).read_bytes() == data
    assert [one.name for one in list_adapters(space)] == ["robot"] and list_trash(space) == []
    with pytest.raises(BadInput, match="no longer in the trash"):
        undelete(space, id)


def test_what_comes_back_takes_no_others_place(space: Workspace) -> None:
    first = kept(space, "robot")
    id = delete_adapter(space, "robot")
    second = kept(space, "robot", an_adapter(1))
    assert undelete(space, id).name == "robot-2.safetensors"
    assert get_adapter(space, "robot").path.read_bytes() == second
    assert get_adapter(space, "robot-2").path.read_bytes() == first


def test_the_trash_is_emptied_by_age(space: Workspace) -> None:
    kept(space, "robot")
    delete_adapter(space, "robot")
    assert empty_trash(space, older=3600) == 0 and len(list_trash(space)) == 1
    assert empty_trash(space) == 1 and list(space.trash.iterdir()) == []


def test_a_kill_while_deleting_loses_nothing(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = kept(space, "robot")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("studio.workspace.folder.os.link", killed)
    with pytest.raises(KeyboardInterrupt):
        delete_adapter(space, "robot")
    assert list_trash(space) == []
    assert get_adapter(space, "robot").path.read_bytes() == data


def test_a_note_that_points_outside_is_refused(space: Workspace) -> None:
    kept(space, "robot")
    id = delete_adapter(space, "robot")
    note = space.trash / id / "what.json"
    (space.trash / id / "robot.safetensors").rename(space.trash / id / "x")
    note.write_text(json.dumps({"place": "../../x", "when": 1.0}))
    with pytest.raises(BadInput):
        undelete(space, id)
    assert not (space.root.parent.parent / "x").exists()


# The history.


def drawn(space: Workspace, prompt: str, *, day: str = "") -> str:
    path = next_picture_path(space, prompt)
    if day:
        path = space.pictures / day / path.name
        path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (640, 320), "blue").save(path)
    return f"{path.parent.name}/{path.name}"


def test_the_history_is_paged_newest_first(space: Workspace) -> None:
    old = [drawn(space, "old", day=f"2026-01-0{day}") for day in (1, 2)]
    new = [drawn(space, prompt) for prompt in ("a red robot", "../../etc", "", "a.b/c")]
    assert [id.partition("-")[2].partition("/")[2][:5] for id in new] == [
        f"{number:05d}" for number in (1, 2, 3, 4)
    ]
    (space.pictures / "2026-01-02" / "note.txt").touch()
    everything = [*reversed(new), *reversed(old)]
    assert [one.id for one in list_pictures(space)] == everything
    paged: list[str] = []
    while page := list_pictures(space, limit=2, before=paged[-1] if paged else None):
        paged += [one.id for one in page]
    assert paged == everything
    assert get_picture(space, new[0]).path.name == "00001-a red robot.png"


def test_a_deleted_picture_comes_back_in_its_place(space: Workspace) -> None:
    ids = [drawn(space, "a") for _ in range(3)]
    trashed = delete_picture(space, ids[1])
    assert [one.id for one in list_pictures(space)] == [ids[2], ids[0]]
    # The page after the deleted one is still known.
    assert [one.id for one in list_pictures(space, before=ids[1])] == [ids[0]]
    undelete(space, trashed)
    assert [one.id for one in list_pictures(space)] == ids[::-1]


def test_uploads_have_small_copies_that_stand_upright_on_white(
    space: Workspace, tmp_path: Path
) -> None:
    lying = Image.new("RGB", (800, 400), "red")
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(tmp_path / "lying.jpg", exif=exif)
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    name = create_set(space, "small").name
    for file in ("lying.jpg", "clear.png"):
        add_upload(space, name, tmp_path / file)
    with Image.open(upload_thumbnail(space, name, "lying.jpg")) as small:
        assert small.size == (160, 320)
    with Image.open(upload_thumbnail(space, name, "clear.png")) as small:
        assert small.size == (40, 20) and small.getpixel((5, 5)) == (255, 255, 255)
    with pytest.raises(BadInput, match=r"no picture gone\.png"):
        upload_thumbnail(space, name, "gone.png")


def test_a_thumbnail_is_of_the_picture_that_is_there(space: Workspace, tmp_path: Path) -> None:
    """Of one of like words, and of one that came back in the place of a later one."""
    for colour in ("red", "lime"):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.png")

    def colour(set_name: str, name: str) -> str:
        with Image.open(upload_thumbnail(space, set_name, name)) as small:
            pixel = small.getpixel((5, 5))
            assert isinstance(pixel, tuple)
            return "red" if pixel[0] > 128 else "lime"

    for set_name, name, file in (("robot", "old 1.png", "red"), ("robot old", "1.png", "lime")):
        create_set(space, set_name)
        add_upload(space, set_name, tmp_path / f"{file}.png", name=name)
        assert colour(set_name, name) == file
    trashed = delete_upload(space, "robot", "old 1.png")
    add_upload(space, "robot", tmp_path / "lime.png", name="old 1.png")
    assert colour("robot", "old 1.png") == "lime"
    delete_upload(space, "robot", "old 1.png")
    undelete(space, trashed)
    assert colour("robot", "old 1.png") == "red"


def test_thumbnails_are_small_and_kept(space: Workspace) -> None:
    id = drawn(space, "a")
    small = thumbnail(space, id)
    with Image.open(small) as picture:
        assert picture.size == (320, 160)
    made = small.stat().st_mtime_ns
    assert thumbnail(space, id) == small and small.stat().st_mtime_ns == made
    get_picture(space, id).path.write_bytes(b"no picture")
    os.utime(get_picture(space, id).path)
    with pytest.raises(BadInput, match="can't be read"):
        thumbnail(space, id)


# Uploads.


def test_uploads_are_checked_and_named_apart(space: Workspace, tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    Image.new("RGB", (32, 16), "red").save(photo)
    whole = photo.read_bytes()
    made = create_set(space, "My robot: photos")
    assert made.name == "My robot photos"
    assert create_set(space, "My robot photos").name == "My robot photos-2"
    assert add_upload(space, made.name, photo).name == "a.jpg"
    assert add_upload(space, made.name, photo, name="../../a.PNG").name == "a-2.jpg"
    photo.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"b\.jpg can't be read as a picture"):
        add_upload(space, made.name, photo, name="b.jpg")
    (tmp_path / "script.png").write_text("<svg onload=alert(1)>")
    with pytest.raises(BadInput, match="can't be read as a picture"):
        add_upload(space, made.name, tmp_path / "script.png")
    assert [one.name for one in get_set(space, made.name).pictures] == ["a-2.jpg", "a.jpg"]
    assert list(space.cache.iterdir()) == []


def test_huge_pictures_are_refused_before_they_are_decoded(
    space: Workspace, tmp_path: Path
) -> None:
    create_set(space, "set")
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    with pytest.raises(BadInput, match="9000 x 9000 pixels"):
        add_upload(space, "set", tmp_path / "bomb.png")


def test_what_is_uploaded_gets_the_ending_of_its_format(space: Workspace, tmp_path: Path) -> None:
    """MPO is a JPEG with more pictures behind it, as phones write it."""
    create_set(space, "set")
    red, more = Image.new("RGB", (8, 8), "red"), [Image.new("RGB", (8, 8), "lime")]
    for kind, ending in {"MPO": "jpg", "TIFF": "tif", "WEBP": "webp", "JPEG2000": "jp2"}.items():
        options = {"save_all": True, "append_images": more} if kind == "MPO" else {}
        red.save(tmp_path / kind, format=kind, **options)
        assert add_upload(space, "set", tmp_path / kind).name == f"{kind}.{ending}"


def test_a_set_that_was_filled_by_hand_has_the_pictures_that_a_training_reads(
    space: Workspace, tmp_path: Path
) -> None:
    folder = create_set(space, "set").path
    for name in ("a.JPG", "b.jpeg", "c.jfif", "d", "e.png", "e.mask.png", "cut.jpg"):
        Image.effect_noise((64, 64), 90).save(folder / name, format="JPEG")
    (folder / "a.Caption").write_text("a robot")
    (folder / "cut.jpg").write_bytes((folder / "b.jpeg").read_bytes()[:900])
    found = get_set(space, "set").pictures
    learned = read_pictures(folder, trigger="t", size=64, step=8)
    assert [one.name for one in found if one.name != "cut.jpg"] == [
        one.path.name for one in learned.examples
    ]
    assert {one.name: one.caption for one in found}["a.JPG"] == "a robot"
    with Image.open(upload_thumbnail(space, "set", "cut.jpg")) as grey:
        assert grey.convert("RGB").getpixel((5, 5)) == (128, 128, 128)


def test_captions_stay_with_their_pictures(space: Workspace, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    create_set(space, "set")
    add_upload(space, "set", tmp_path / "a.png")
    write_caption(space, "set", "a.png", " a sks robot\nin red ")
    (picture,) = get_set(space, "set").pictures
    assert picture.caption == "a sks robot in red"
    deleted = delete_upload(space, "set", "a.png")
    assert add_upload(space, "set", tmp_path / "a.png").name == "a-2.png"
    assert {one.name: one.caption for one in get_set(space, "set").pictures} == {"a-2.png": ""}
    undelete(space, deleted)
    assert get_set(space, "set").pictures[1].caption == "a sks robot in red"
    write_caption(space, "set", "a.png", "")
    assert get_set(space, "set").pictures[1].caption == ""
    id = delete_set(space, "set")
    assert list_sets(space) == []
    undelete(space, id)
    assert len(list_sets(space)[0].pictures) == 2


# Bases.


def test_bases_used_are_remembered(space: Workspace, sd1_folder: Path) -> None:
    assert [(one.source, one.family) for one in list_bases(space)] == [
        ("sketch", "sdxl"),
        ("sketch-sd1", "sd1"),
    ]
    assert add_base(space, str(sd1_folder)).family == "sd1"
    assert add_base(space, "someone/some-model").family == ""
    remember_base(space, "someone/some-model", name="some-model", family="sd2")
    assert [(one.name, one.family) for one in list_bases(space)[2:]] == [
        ("some-model", "sd2"),
        (sd1_folder.name, "sd1"),
    ]
    forget_base(space, "someone/some-model")
    assert [one.name for one in list_bases(space)[2:]] == [sd1_folder.name]
    for wrong in (str(space.root), "nowhere.safetensors", "a.ckpt", "not an id", ""):
        with pytest.raises(BadInput):
            add_base(space, wrong)


# Runs.


def test_a_log_is_read_as_it_grows_and_from_the_start_after_a_resume(space: Workspace) -> None:
    run = space.runs / "robot-1"
    run.mkdir()
    assert read_log(space, "robot-1").lines == ()
    log = run / "log.jsonl"
    log.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.5}\n{"st')
    first = read_log(space, "robot-1")
    assert [line["step"] for line in first.lines] == [1, 2] and first.fresh
    with log.open("a") as file:
        file.write('ep": 3, "loss": 0.5}\n')
    more = read_log(space, "robot-1", after=first.mark)
    assert [line["step"] for line in more.lines] == [3] and not more.fresh
    nothing = read_log(space, "robot-1", after=more.mark)
    assert nothing.lines == () and not nothing.fresh and nothing.mark == more.mark
    (run / "new").write_text('{"step": 1, "loss": 0.5}\n')
    (run / "new").replace(log)
    again = read_log(space, "robot-1", after=more.mark)
    assert [line["step"] for line in again.lines] == [1] and again.fresh
    for mark in ("nonsense", "1:-5", "::", "9" * 50):
        assert read_log(space, "robot-1", after=mark).fresh


@pytest.mark.parametrize(
    "damage",
    ['{"step": 2, "lo', "\0" * 40, "{}", "[" * 9999, '"loss"'],
    ids=["half", "zeros", "empty", "deep", "text"],
)
def test_damaged_lines_of_a_log_are_left_out_and_counted(space: Workspace, damage: str) -> None:
    """They are what a power cut leaves."""
    run = space.runs / "robot-1"
    run.mkdir()
    whole = '{"step": 1, "loss": 0.5}\n'
    (run / "log.jsonl").write_text(f"{whole}{damage}\n{whole}")
    log = read_log(space, "robot-1")
    assert [line["step"] for line in log.lines] == [1, 1]
    assert log.remark == "Left out 1 line of log.jsonl that cannot be read."


def test_samples_and_checkpoints_are_listed_in_order(space: Workspace) -> None:
    run = space.runs / "robot-1"
    assert not run.exists()
    for step in (200, 1000, 50):
        (run / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
        (run / "samples").mkdir(exist_ok=True)
        (run / "samples" / f"step-{step:06d}-00.png").touch()
    (run / "checkpoints" / ".step-half").mkdir()
    assert [one.step for one in list_checkpoints(space, "robot-1")] == [50, 200, 1000]
    assert [(one.step, one.number) for one in list_samples(space, "robot-1")] == [
        (50, 0),
        (200, 0),
        (1000, 0),
    ]
