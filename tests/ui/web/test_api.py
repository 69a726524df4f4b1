"""What programs do with gradio_client."""

from inspect import signature
from itertools import product
from pathlib import Path
from shutil import copyfile
from typing import Any

import httpx
import pytest
from gradio.data_classes import FileData
from gradio_client import Client, handle_file
from PIL import Image

from studio.adapters.load import load_adapter
from studio.errors import BadInput
from studio.workspace import Workspace, adapter_path, add_adapter, list_sets, open_workspace
from tests.ui.web.conftest import ROOT, Server
from tests.ui.web.test_library import an_adapter, kohya_file
from ui.web.api.endpoints import GROUPS
from ui.web.api.jobs import JobEndpoints
from ui.web.api.pictures import PictureEndpoints
from ui.web.api.values import check_arguments
from ui.web.batch.library_names import MOST_QUEUED, shots_of
from ui.web.server.downloads import web_folder

ROBOT = ROOT / "assets" / "examples" / "robot"


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    return Client(server.address, verbose=False)


def call(client: Client, call_: str, /, **given: Any) -> Any:
    return client.predict(**given, api_name=f"/{call_}")


def test_every_call_is_described(client: Client) -> None:
    described: Any = client.view_api(return_format="dict", print_info=False)
    calls = described["named_endpoints"]
    wanted = {"train", "jobs", "job", "stop", "resume", "remove", "generate", "batch", "history"}
    wanted |= {"list_library", "import_adapter", "export_adapter", "rename_adapter"}
    wanted |= {"delete_adapter", "undo_delete", "recipe_of"}
    assert wanted <= {name.removeprefix("/") for name in calls}
    for name, one in calls.items():
        assert one["description"], name
        for parameter in one["parameters"]:
            assert parameter["type"], f"{name} {parameter['parameter_name']}"
            assert parameter["python_type"]["description"], f"{name} {parameter}"


def test_an_adapter_comes_in_is_renamed_and_goes_out(client: Client, tmp_path: Path) -> None:
    file = kohya_file(tmp_path, "api lamp")
    taken = call(client, "import_adapter", file=handle_file(file))
    assert (taken["name"], taken["kind"]) == ("api lamp", "lora")
    assert (
        call(client, "rename_adapter", name="api lamp", new="api lantern")["name"] == "api lantern"
    )
    assert call(client, "describe_adapter", name="api lantern")["ranks"] == {"2": 1}
    back = call(client, "export_adapter", name="api lantern", to="lycoris")
    assert load_adapter(back).deltas.keys() == load_adapter(file).deltas.keys()
    id = call(client, "delete_adapter", name="api lantern")
    assert "api lantern" not in [one["name"] for one in call(client, "list_library")]
    assert call(client, "undo_delete", id=id) == "api lantern"


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("job", {"id": 10**6}, "there is no job"),
        ("describe_adapter", {"name": "../../etc"}, "no adapter|cannot be a name"),
        ("rename_adapter", {"name": "x", "new": "y"}, "there is no adapter x"),
        ("export_adapter", {"name": "x", "to": "zip"}, "no format"),
        ("generate", {"prompt": "a", "adapters": ["/etc/passwd"]}, "cannot be a name"),
        ("generate", {"prompt": "a", "adapters": ["x:abc"]}, "a strength, a number.*not :abc"),
        ("generate", {"prompt": "a", "base": "/etc"}, "not among the bases"),
        ("generate", {"prompt": "a", "steps": 0}, "steps"),
        ("train", {"trigger": "sks", "pictures": []}, "no pictures"),
        ("train", {"trigger": "sks", "pictures": [], "kind": "magic"}, "no kind 'magic'"),
        ("batch", {"manifest": "prompt = 3"}, "line 1, prompt"),
        ("recipe_of", {"id": "2020-01-01/../../studio.sqlite"}, "can be no|no picture"),
    ],
)
def test_what_is_wrong_is_said(client: Client, name: str, given: dict, said: str) -> None:
    with pytest.raises(Exception, match=said):
        call(client, name, **given)


def test_a_file_that_was_not_sent_is_not_read(server: Server) -> None:
    kept = add_adapter(
        server.space, an_adapter().save(server.space.cache / "api.safetensors"), name="api vault"
    )
    for path in (kept.path, Path("/etc/passwd"), server.space.database):
        sent = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        address = f"{server.address}/gradio_api/call/import_adapter"
        event = httpx.post(address, json={"data": [sent]}, timeout=60).json()["event_id"]
        answer = httpx.get(f"{address}/{event}", timeout=60).text
        assert "event: error" in answer


def test_train_generate_and_read_the_recipe(client: Client, tmp_path: Path) -> None:
    pictures = sorted(ROBOT.glob("*.png"))[:2]
    recipe = {"steps": 4, "batch": 1}
    job = call(
        client,
        "train",
        trigger="sks api robot",
        pictures=[handle_file(one) for one in pictures],
        captions=["a sks api robot"],
        options={"rank": 2},
        recipe=recipe,
    )
    done = call(client, "wait", id=job["id"])
    assert done["state"] == "done", done["error"]
    (name,) = done["results"]
    job, made = call(
        client, "generate", prompt="a sks api robot", adapters=[f"{name}:0.5"], steps=3, count=2
    )
    assert job["state"] == "done" and len(made) == 2
    for file in made:
        with Image.open(file) as picture:
            assert picture.size == (128, 128)  # the size of sketch
    told = call(client, "recipe_of", id=job["results"][1])
    assert (told["prompt"], told["seed"], told["steps"]) == ("a sks api robot", 1, 3)
    assert [(one["name"], one["strength"]) for one in told["adapters"]] == [(name, 0.5)]
    assert job["results"][0] in [one["id"] for one in call(client, "history")]


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    space = open_workspace(tmp_path / "space")
    for name in ("robot", "ink style"):
        add_adapter(space, an_adapter().save(tmp_path / "one.safetensors"), name=name)
    return space


def test_pictures_of_which_one_is_damaged_leave_no_set_behind(space: Workspace) -> None:
    web_folder(space).mkdir(parents=True)
    good, damaged = (web_folder(space) / name for name in ("1.png", "2.png"))
    Image.new("RGB", (8, 8)).save(good)
    damaged.write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"2\.png"):
        JobEndpoints(space).train("sks robot", [FileData(path=str(one)) for one in (good, damaged)])
    assert not list_sets(space)


def test_a_manifest_calls_adapters_as_the_library_does(space: Workspace) -> None:
    text = (
        'prompts = ["a", "b"]\nmixes = [[], ["robot:0.5", "ink style.safetensors"]]\nseeds = "1..2"'
    )
    shots = shots_of(space, text)
    assert len(shots) == 8
    places = [adapter_path(space, name) for name in ("robot", "ink style")]
    assert shots[-1].adapters == ((places[0], 0.5), (places[1], 1.0))


def test_an_adapter_called_as_a_manifest_or_as_another_file_stays_what_it_is(
    space: Workspace, tmp_path: Path
) -> None:
    file = an_adapter().save(tmp_path / "one.safetensors")
    for name in ("manifest.toml", "robot.safetensors"):
        copyfile(file, space.adapters / f"{name}.safetensors")
    before = {place: place.read_bytes() for place in space.adapters.iterdir()}
    shots = shots_of(space, 'prompt = "a"\nadapters = ["robot", "manifest.toml.safetensors:0.5"]')
    places = [adapter_path(space, name) for name in ("robot", "manifest.toml")]
    assert shots[0].adapters == ((places[0], 1.0), (places[1], 0.5))
    assert before == {place: place.read_bytes() for place in space.adapters.iterdir()}


def test_more_shots_than_are_queued_at_once_are_refused_before_they_are_made(
    space: Workspace,
) -> None:
    with pytest.raises(BadInput, match="5,000 are the most"):
        shots_of(space, f'prompts = ["a", "b"]\nseeds = "1..{MOST_QUEUED}"')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('prompt = "a"\nadapters = ["nobody"]', "line 2, adapters: there is no adapter 'nobody'"),
        (
            'prompt = "a"\nadapters = ["{outside}"]',
            "line 2, adapters: call adapters by",
        ),
        ('prompt = "a"\ninit_image = "{picture}"', "line 2, init_image: call a picture by"),
        ('prompt = "a"\nbase = "{folder}"', "line 2, base"),
        ('prompt_file = "/etc/passwd"', "prompt_file: write the prompts here"),
        ('prompt = "a"\nwildcards = "/etc"', "wildcards: write the lists here"),
        ('prompt = "a"\nseed = "many"\nstep = 3', "line 3, step: there is no such field"),
        ('prompt = "__a/../../secret__"', "there is no wildcard"),
        ('prompt = "__a__"', "there is no wildcard a: add it to [wildcards]"),
        ('prompt = "a"\nbase = "somebody/model"', "line 2, base: add it to the bases"),
        ('prompt = "a"\nadapters = ["../../secret"]', "line 2, adapters: call adapters by"),
        ('prompt = "a"\ninit_image = "/secret"', "line 2, init_image: call a picture by"),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_manifest_reaches_nothing_else(
    space: Workspace, tmp_path: Path, text: str, said: str, mark: str
) -> None:
    outside = an_adapter().save(tmp_path / "outside.safetensors")
    places = {"outside": outside, "picture": ROBOT / "robot-1.png", "folder": tmp_path}
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", str(place))
    with pytest.raises(BadInput) as wrong:
        shots_of(space, mark + text)
    assert said in str(wrong.value) and str(space.cache) not in str(wrong.value)


ODD: list[Any] = [None, True, 1.5, -1, 10**30, float("nan"), "a\0b", "\ud800", "~nobody", "../.."]
ODD += [[], {}, [None], [[]], {"rank": 1.5}, {"steps": "x"}, ["robot:nan"], {"path": "/etc/passwd"}]
SOUND = {"prompt": "a", "manifest": 'prompt = "a"', "id": 1, "name": "robot", "new": "robot2"}
SOUND |= {"trigger": "sks", "pictures": [], "file": {"path": "x"}}
SLOW = ("add_base", "export_adapter")  # asks the hub; starts a process


@pytest.mark.parametrize("group", GROUPS)
def test_odd_arguments_of_any_endpoint_are_taken_or_refused_with_a_sentence(
    space: Workspace, group: type
) -> None:
    endpoints = group(space)
    for name in (one for one in vars(group) if not one.startswith("_") and one not in SLOW):
        endpoint = getattr(endpoints, name)
        parameters = [one for one in signature(endpoint).parameters if one != "wait"]
        sound = {one: value for one, value in SOUND.items() if one in parameters}
        sound |= {"wait": False} if name == "generate" else {}
        sound |= {"seconds": 0.0} if "seconds" in parameters else {}
        for parameter, value in product(parameters, ODD):
            try:
                check_arguments(endpoint)(**(sound | {parameter: value}))
            except BadInput as error:
                assert str(error).strip()


def test_an_argument_of_another_type_is_named(space: Workspace) -> None:
    generate = check_arguments(PictureEndpoints(space).generate)
    with pytest.raises(BadInput, match=r"count must be a whole number; it is 1.5"):
        generate("a", count=1.5)  # pyright: ignore[reportArgumentType]
    train = check_arguments(JobEndpoints(space).train)
    with pytest.raises(BadInput, match=r"rank must be a whole number .*; it is 1.5"):
        train("a", [], options={"rank": 1.5})
