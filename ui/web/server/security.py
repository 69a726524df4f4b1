"""Refuse requests before Gradio sees them.

Gradio serves all files of a folder from which it may show pictures, fetches any URL for any client,
and accepts requests that other web pages send to this machine. Studio needs none of that.
"""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGIN = "/login"
MOST_TRIES = 10  # wrong passwords from one address in a minute
FILE_ROUTES = ("/gradio_api/file=", "/gradio_api/file/")
# Routes that fetch from other servers, and Gradio's development tools.
BLOCKED = ("proxy=", "vibe-", "undo-vibe-", "process_recording", "run-history", "runs", "dev/")
BLOCKED_ROUTES = tuple(f"/gradio_api/{route}" for route in BLOCKED)
PICTURES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".webp")
# The first one keeps other pages from showing this page in a frame, where users might be led to
# press its buttons unseen (clickjacking).
HEADERS = {
    "content-security-policy": "frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}


class RequestFilter:
    """ASGI middleware that refuses hosts, origins, routes and files.

    pictures: folders whose pictures are served. downloads: the folder of uploads and downloads;
    all its files are served. local: the page is for this machine alone. Any other host name is then
    refused, since its owner may have pointed it here (DNS rebinding).
    """

    def __init__(
        self, app: ASGIApp, *, pictures: Sequence[Path], downloads: Path, local: bool
    ) -> None:
        self.app, self.pictures, self.downloads, self.local = app, pictures, downloads, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (reason := self._refusal(scope)):
            await PlainTextResponse(reason, status_code=403)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> str:
        """Why a request is refused; "" where it is allowed."""
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self.local and not is_loopback(_host_name(f"//{host}")):
            return "This page can be opened only on the machine that it runs on."
        origin = headers.get("origin")
        own = (host, headers.get("x-forwarded-host", host))
        if origin is not None and urlsplit(origin).netloc not in own:
            return "Requests from other web pages are refused."
        if path.startswith(BLOCKED_ROUTES):
            return "This route is blocked."
        for route in FILE_ROUTES:
            if path.startswith(route) and not self._may_serve(path.removeprefix(route)):
                return "This file is not served."
        return ""

    def _may_serve(self, file: str) -> bool:
        """Whether a file is one of the workspace's pictures, an upload or a download."""
        try:
            path = Path(file)
            real = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            return False
        if not path.is_absolute() or real != path:  # a symbolic link, or a path with ".."
            return False
        if real.is_relative_to(self.downloads):
            return True
        in_pictures = any(real.is_relative_to(folder) for folder in self.pictures)
        return in_pictures and real.suffix.lower() in PICTURES


class LoginThrottle:
    """ASGI middleware: an address that sent too many wrong passwords has to wait for a minute."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._tries: dict[str, list[float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        login = scope["type"] == "http" and scope["path"].rstrip("/") == LOGIN
        if not login or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        now = monotonic()
        address = str((scope.get("client") or ("",))[0])
        tries = self._recent(address, now)
        if len(tries) >= MOST_TRIES:
            refusal = PlainTextResponse("Too many wrong passwords: wait a minute.", status_code=429)
            await refusal(scope, receive, send)
            return
        tries.append(now)  # before the answer is known: many requests may come at once

        async def send_answer(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self._tries.pop(address, None)
            await send(message)

        await self.app(scope, receive, send_answer)

    def _recent(self, address: str, now: float) -> list[float]:
        """When an address tried in the last minute. Forgets older tries of all addresses."""
        recent = {who: [at for at in times if now - at < 60] for who, times in self._tries.items()}
        self._tries = {who: times for who, times in recent.items() if times}
        return self._tries.setdefault(address, [])


def is_loopback(host: str) -> bool:
    """Whether a name or address is the loopback, to which no other machine can connect."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
