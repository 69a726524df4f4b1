"""The page opens, and others than this machine only reach it with a password."""

import pytest
from playwright.sync_api import Page, expect

from studio.errors import BadInput
from tests.web.conftest import open_tab
from ui.web.app import check_reach

TABS = ("Train", "Mix", "Batch", "Library")


def test_every_tab_opens(page: Page) -> None:
    for name in TABS:
        open_tab(page, name)
        expect(page.get_by_role("tab", name=name, selected=True)).to_be_visible()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.0.1"])
def test_this_machine_needs_no_password(host: str) -> None:
    assert check_reach(host, None) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "my-machine", ""])
def test_others_need_one(host: str) -> None:
    with pytest.raises(BadInput, match="--auth NAME:PASSWORD"):
        check_reach(host, None)
    assert check_reach(host, "ann:se:cret") == ("ann", "se:cret")


@pytest.mark.parametrize("auth", ["", "ann", ":", "ann:", ":secret"])
def test_half_a_login_is_refused(auth: str) -> None:
    with pytest.raises(BadInput, match="NAME:PASSWORD"):
        check_reach("127.0.0.1", auth)
