"""The record in a batch's folder, and the pictures' file names: what a batch needs to be resumed.

`batch.json` records the bases of the pictures and, for each picture size, how many pictures are one
batch. That number affects a picture's last bits, so a resumed batch reads it instead of measuring
again. The record is written before the first picture.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from studio.adapters.adapter_header import find_adapter_file
from studio.adapters.blora_blocks import split_half
from studio.adapters.component_folders import component_files
from studio.errors import BadInput
from studio.files import file_sha256, read_text, write_file
from studio.json_value import parse_object
from studio.requests.prompt_syntax import has_marks
from studio.requests.shot import Shot, method_name, method_options
from ui.shared.names import slug

VERSION = 1  # of batch.json
# Options that methods got later, with the defaults under which pictures are the same as before.
NEWER_OPTIONS: dict[str, dict[str, object]] = {
    "merge": {"style": (), "kappa": 0.5, "k": None},
    "switch": {"turns": (), "weigh": "equal"},
    "composite": {"weights": (), "weigh": "equal"},
}
NEWER = ("vae", "quantize")  # facts that older records lack
FACTS = ("fingerprint", "dtype", *NEWER)  # recorded facts of a base
PREFIX = 40  # characters of the prompt in a file's name


class Record:
    """The record in a folder.

    For each base, by its source: FACTS, and the batch sizes from `compose.batch_sizes`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "batch.json"

    @property
    def there(self) -> bool:
        return self.path.is_file()

    def write(self, sizes: Mapping[str, tuple[Mapping[str, str], Mapping[str, int]]]) -> None:
        """Write the record. sizes: by the base's source, its facts and batch sizes."""
        bases = {source: {**facts, "size": by_size} for source, (facts, by_size) in sizes.items()}
        write_file(self.path, json.dumps({"version": VERSION, "bases": bases}, indent=2).encode())

    def read(self) -> dict[str, tuple[dict[str, str], dict[str, int]]]:
        """Read the record; the inverse of `write`. Raises BadInput for a damaged record."""
        try:
            written: Any = parse_object(read_text(self.path), "it")
            if written["version"] == VERSION:
                return {
                    source: (
                        {key: str(one[key]) for key in FACTS if key not in NEWER or key in one},
                        {size: _count(count) for size, count in one["size"].items()},
                    )
                    for source, one in written["bases"].items()
                }
        except (OSError, LookupError, TypeError, AttributeError, ValueError) as error:
            raise BadInput(f"{self.path} is damaged ({error}): give another --out.") from None
        raise BadInput(f"{self.path} is of another version of Studio: give another --out.")


def _count(shots: object) -> int:
    if not isinstance(shots, int) or shots < 1:
        raise ValueError("it has a batch of no shots")
    return shots


def file_name(shot: Shot, folder: Path) -> str:
    """The file name of a shot's picture: words of the prompt, the seed, and a hash of the shot.

    The hash includes the contents of files, not their paths, so that a name stays when files move
    and changes when an adapter is trained again. folder: the manifest's; a base's path is taken
    relative to it.
    """
    facts: dict[str, object] = {
        "prompt": shot.prompt,
        "negative": shot.negative,
        "seed": shot.seed,
        "size": [shot.width, shot.height],
        "steps": shot.steps,
        "guidance": float(shot.guidance),
        "scheduler": shot.scheduler,
        "base": os.path.relpath(shot.base, folder) if os.path.isabs(shot.base) else shot.base,
        "adapters": [[*_content(str(one)), float(strength)] for one, strength in shot.adapters],
        "method": [method_name(shot.method), _method_options(shot.method)],
    }
    # Fields at their defaults are left out, so that older batches keep their pictures' names.
    if shot.spacing is not None:
        facts["spacing"] = shot.spacing
    if shot.syntax != "a1111" or has_marks(shot.prompt) or has_marks(shot.negative):
        facts["syntax"] = shot.syntax
    if shot.clip_skip is not None:
        facts["clip_skip"] = shot.clip_skip
    if shot.avoid:
        facts["avoid"] = [shot.avoid, shot.avoid_by, float(shot.avoid_strength)]
    if shot.regions:
        facts["regions"] = shot.regions
    if shot.second_pass is not None:
        facts["second"] = [float(shot.second_pass), float(shot.second_denoise)]
    if shot.init_image is not None:
        facts["start"] = [_picture_sha256(shot.init_image), float(shot.denoise)]
    if shot.mask is not None:
        facts["mask"] = _picture_sha256(shot.mask)
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    words = slug(shot.prompt)[:PREFIX].strip("-") or "picture"
    return f"{words}-{shot.seed}-{digest}.png"


def _method_options(method: object) -> dict[str, object]:
    """The options of a method, without newer options at their defaults."""
    newer = NEWER_OPTIONS.get(method_name(method), {})
    given = method_options(method).items()
    return {name: value for name, value in given if newer.get(name, ...) != value}


def _content(adapter: str) -> tuple[str, str]:
    """The hash of an adapter's contents, and the half of it that is used."""
    path, half = split_half(adapter)
    file = find_adapter_file(Path(path))
    files = [str(one) for one in component_files(file).values()] or [str(file)]
    return "".join(_sha256(one, os.stat(one).st_mtime_ns) for one in files), half


def _picture_sha256(picture: object) -> str:
    file = str(picture)
    return _sha256(file, os.stat(file).st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256(file: str, changed: int) -> str:
    return file_sha256(file)
