"""Addresses at which there is no Ray cluster are refused soon, before Ray itself is asked."""

import socket
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest

from studio.errors import BadInput
from ui.shared.ray_cluster import connect


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Ray, of which nothing is there: whoever asks it for anything fails."""
    empty = ModuleType("ray")
    empty.shutdown = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", empty)
    return empty


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def refused(address: str) -> str:
    with pytest.raises(BadInput) as error, connect(address, device="cpu"):
        pass
    return str(error.value)


def test_without_ray_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refused("127.0.0.1:6379") == "--ray needs Ray: pip install 'studio[ray]'"


@pytest.mark.parametrize(
    "address", ["here", "here:", "here:port", "127.0.0.1:0", "127.0.0.1:70000"]
)
def test_what_is_no_address_is_told(ray: ModuleType, address: str) -> None:
    assert f"--ray {address} " in refused(address) and "HOST:PORT" in refused(address)


def test_where_nobody_listens_there_is_no_cluster(
    ray: ModuleType, listening: socket.socket
) -> None:
    port = listening.getsockname()[1]
    listening.close()
    assert f"no Ray cluster at 127.0.0.1:{port}: Connection refused" in refused(f"127.0.0.1:{port}")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_what_is_no_server_of_ray_is_not_taken_for_one(
    ray: ModuleType, listening: socket.socket, answer: bytes
) -> None:
    def serve() -> None:
        with listening.accept()[0] as one:
            one.recv(64)
            one.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    assert "is not a Ray cluster" in refused(f"127.0.0.1:{listening.getsockname()[1]}")


def test_whoever_says_nothing_is_not_waited_for(
    ray: ModuleType, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.shared.ray_cluster.ANSWER", 0.2)
    assert "timed out" in refused(f"127.0.0.1:{listening.getsockname()[1]}")
