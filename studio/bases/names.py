"""What a base may be called: one of ours, or an id of the hub. No library is imported for it."""

import re

__all__ = ["BUNDLED_BASES", "HUB_ID"]

BUNDLED_BASES = (
    "sketch",
    "sketch-sd1",
)  # come with the repository, and adapters of theirs fit no other
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name, unless such a folder is there
