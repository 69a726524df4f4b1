"""What the server refuses, asked as a program would that means harm."""

import http.client
import json
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from studio.workspace import add_adapter, create_set, get_adapter
from tests.ui.web.conftest import Server, open_tab
from tests.ui.web.test_library import an_adapter, find

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
TEMPLATE = "${window.hacked = 1}{{constructor.constructor('window.hacked = 1')()}}"


def ask(
    server: Server, path: str, *, method: str = "GET", body: str | None = None, **headers: str
) -> tuple[int, bytes]:
    """A request exactly as written: nothing tidies the path up on the way."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    named: Mapping[str, str] = {key.replace("_", "-"): value for key, value in headers.items()}
    try:
        connection.request(method, path, body=body, headers=dict(named))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def picture(server: Server) -> Path:
    folder = server.space.pictures / "2020-02-02"
    folder.mkdir()
    path = folder / "00001-a fine picture.png"
    Image.new("RGB", (8, 8), "teal").save(path)
    return path


@pytest.fixture(scope="module")
def hidden(server: Server, picture: Path) -> dict[str, str]:
    """Ways to files that are nobody's to see, by what they are."""
    space, root = server.space, Path(__file__).resolve().parents[3]
    adapter = add_adapter(
        space, an_adapter().save(space.cache / "vault.safetensors"), name="vault"
    ).path
    caption = create_set(space, "vault").path / "one.txt"
    caption.write_text("a secret")
    page = space.runs / "page.html"
    page.write_text("<script>alert(1)</script>")
    link = picture.with_name("00002-link.png")
    link.symlink_to(root / "assets" / "readme" / "sheet.webp")
    (space.pictures / "out").symlink_to(root / "assets")
    return {
        "the database": str(space.database),
        "an adapter": str(adapter),
        "a caption": str(caption),
        "a page in a run": str(page),
        "a file of the machine": "/etc/passwd",
        "a file from where the server was started": str(root / "README.md"),
        "the same, relative": "README.md",
        "a picture elsewhere": str(root / "assets" / "readme" / "sheet.webp"),
        "out of the pictures by dots": f"{space.pictures}/../studio.sqlite",
        "through dots back in": f"{space.pictures}/../pictures/2020-02-02/{picture.name}",
        "a link": str(link),
        "a folder that is a link": f"{space.pictures}/out/readme/sheet.webp",
        "two slashes": f"/{picture}",
        "a folder": str(space.pictures),
        "another address": "http://127.0.0.1:1/",
        "a zero in the name": f"{picture}\0.txt",
    }


@pytest.mark.parametrize("route", ["file=", "file/"])
def test_only_pictures_of_the_workspace_are_served(
    server: Server, picture: Path, hidden: dict[str, str], route: str
) -> None:
    slash = "" if route == "file=" else "/"
    status, data = ask(server, f"/gradio_api/file={quote(str(picture))}")
    assert (status, data) == (200, picture.read_bytes())
    for what, path in hidden.items():
        for written in (quote(slash + path), quote(slash + path, safe="")):
            status, data = ask(server, f"/gradio_api/{route}{written}")
            assert status in (403, 404), f"{what}: {written} gave {status}"
            assert b"secret" not in data and b"SQLite" not in data


def test_nothing_is_fetched_from_elsewhere(server: Server) -> None:
    for path in ("file=http://1.1.1.1/", "proxy=https://example.com/", "file=//example.com/x.png"):
        assert ask(server, f"/gradio_api/{path}")[0] == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_was_pointed_here_is_refused(server: Server, host: str) -> None:
    for path in ("/", "/config", "/gradio_api/info"):
        assert ask(server, path, Host=host)[0] in (400, 403)
    assert ask(server, "/config", Host=f"localhost:{server.port}")[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
def test_another_page_can_ask_for_nothing(server: Server, origin: str) -> None:
    body = json.dumps({"data": []})
    posts = ("/gradio_api/queue/join", "/gradio_api/call/list_library", "/gradio_api/upload")
    for path in posts:
        for kind in ("application/json", "text/plain"):
            status, _ = ask(
                server, path, method="POST", body=body, Origin=origin, Content_Type=kind
            )
            assert status == 403, path
    own = f"http://127.0.0.1:{server.port}"
    status, _ = ask(
        server, posts[1], method="POST", body=body, Origin=own, Content_Type="application/json"
    )
    assert status != 403


def test_names_and_words_of_files_are_text_on_every_tab(page: Page, server: Server) -> None:
    words = (HOSTILE, TEMPLATE)
    elsewhere = an_adapter(triggers=words).save(server.space.cache / "hostile.safetensors")
    name = add_adapter(server.space, elsewhere, name="urn").name
    # No name that the library gives; one that a person may give a file there.
    os.rename(
        get_adapter(server.space, name).path,
        server.space.adapters / f"{HOSTILE.replace('/', '')}.safetensors",
    )
    add_adapter(server.space, elsewhere, name="urn")
    page.reload()
    open_tab(page, "Library")
    find(page, "urn")
    expect(page.locator("#library .card")).to_have_count(1)
    page.locator('#library [data-name="urn"]').click()
    expect(page.locator("#about")).to_contain_text(HOSTILE)
    expect(page.locator("#about")).to_contain_text(TEMPLATE)
    find(page, "")
    expect(page.locator("#library")).to_contain_text("cannot be a name")
    for tab in ("Train", "Mix", "Batch"):
        open_tab(page, tab)
    assert page.evaluate("window.hacked") is None


def test_a_page_of_the_web_cannot_show_it_in_a_frame(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.headers["content-security-policy"] == "frame-ancestors 'self'"
    connection.close()


def test_what_pages_call_is_no_part_of_the_api(server: Server) -> None:
    wired = json.loads(ask(server, "/config")[1])["dependencies"]
    by_pages = [one for one in wired if one["targets"] and one["targets"][0][0] is not None]
    assert by_pages and all(one["api_visibility"] == "private" for one in by_pages)
    described = json.loads(ask(server, "/gradio_api/info")[1])["named_endpoints"]
    public = {f"/{one['api_name']}" for one in wired if one["api_visibility"] == "public"}
    assert set(described) == public and "/train" in public
