"""What is refused before anything looks at it.

Gradio serves every file of a folder that it may show pictures of, fetches addresses of the web for
whoever asks, and takes what any other page sends to this machine. A page of Studio needs none of
that.
"""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard", "is_loopback"]

FILES = ("/gradio_api/file=", "/gradio_api/file/")
# Fetching from elsewhere, and Gradio's own workshop.
CLOSED = ("proxy=", "vibe-", "undo-vibe-", "process_recording", "run-history", "runs", "dev/")
PICTURES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".webp")


# No other page shows this one inside itself, to have its buttons pressed unseen.
HEADERS = {
    "content-security-policy": "frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}


class Guard:
    """ASGI middleware.

    pictures: folders of which pictures are served. handed: the folder of what pages sent and are
    given, which is served as it is. here: the page is for this machine alone, so that a name which
    someone else's server points here (DNS rebinding) is refused.
    """

    def __init__(self, app: ASGIApp, *, pictures: Sequence[Path], handed: Path, here: bool) -> None:
        self.app, self.pictures, self.handed, self.here = app, pictures, handed, here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (why := self._refusal(scope)):
            await PlainTextResponse(why, status_code=403)(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, answer)

    def _refusal(self, scope: Scope) -> str:
        """Why a request is refused; "" for one that is not."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.here and not is_loopback(_name(f"//{host}")):
            return "This page is for the machine that it runs on."
        origin = headers.get("origin")
        asked = (host, headers.get("x-forwarded-host", host))
        if origin is not None and urlsplit(origin).netloc not in asked:
            return "Another page may not ask this one for anything."
        path = scope["path"]
        if path.startswith(tuple(f"/gradio_api/{one}" for one in CLOSED)):
            return "There is no such thing here."
        asked_file = next((path.removeprefix(one) for one in FILES if path.startswith(one)), None)
        if asked_file is not None and not self._is_served(asked_file):
            return "No such file is shown here."
        return ""

    def _is_served(self, file: str) -> bool:
        """Whether a file is one of the workspace's pictures, or one that a page was given."""
        try:
            path = Path(file)
            real = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            return False
        if not path.is_absolute() or real != path:  # a link, or a way around
            return False
        if real.is_relative_to(self.handed):
            return True
        shown = any(real.is_relative_to(folder) for folder in self.pictures)
        return shown and real.suffix.lower() in PICTURES


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, to which no other can connect."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
