"""The names of bases: bundled ones, and ids on the Hugging Face Hub. Imports no library."""

import re

# Bases that come with Studio. Their adapters fit no other base.
BUNDLED_BASES = ("sketch", "sketch-sd1")
# For each family, the folder in `configs` of its published model.
PUBLISHED = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name, unless a folder has that path
