"""No file takes much more memory to read than it has bytes, whatever it names.

The kernel's own measure of this process: the most that was resident while a file was read.
"""

import ctypes
import gc
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file
from torch import Tensor

from studio.adapters.delta import Sparse
from studio.adapters.describe import describe
from studio.adapters.formats.names import kohya_name
from studio.adapters.load import load_adapter
from studio.errors import BadInput
from studio.files import read_text
from studio.json_value import parse_json
from studio.requests.picture_file import open_picture, read_recipe
from studio.toml_text import parse_toml
from studio.training_log import parse_log

MEGA = 10**6
SPARE = 80 * MEGA  # what reading takes by itself: pieces that are widened, Python's own
LARGEST = 320 * MEGA  # of the largest text that is read: each two of its characters are a list
RESET = Path("/proc/self/clear_refs")
HALF, EIGHT = torch.float16, torch.float8_e4m3fn

pytestmark = pytest.mark.skipif(not RESET.exists(), reason="needs Linux's /proc")


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) * 1024


def peak(read: Callable[[], object]) -> int:
    """The bytes that reading takes beyond what is taken now; a refusal is a result too."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")  # forgets the earlier peak
    before = resident("VmRSS")
    gc.disable()  # it would look at millions of lists again and again
    try:
        kept = read()
    except BadInput as refusal:
        kept = refusal
    finally:
        gc.enable()
    found = resident("VmHWM") - before
    del kept
    return found


def layers(count: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A LyCORIS file's tensors with these of so many layers."""
    names = [
        kohya_name(f"unet.mid_block.attentions.0.transformer_blocks.{n}.attn1.to_q", "sdxl")
        for n in range(count)
    ]
    return {f"{name}.{leaf}": one.clone() for name in names for leaf, one in tensors.items()}


def loha(rank: int, side: int, *, core: bool) -> dict[str, Tensor]:
    one = torch.ones(rank, side, dtype=HALF)
    sides = {f"hada_w{n}_{s}": one.T if s == "a" and not core else one for n in "12" for s in "ab"}
    cores = {f"hada_t{n}": torch.ones(rank, rank, 1, 1, dtype=HALF) for n in "12"}
    return {leaf: one.contiguous() for leaf, one in (sides | (cores if core else {})).items()}


RANK, SIDE = 1000, 1024
ADAPTERS = {
    "lora": lambda: layers(
        8, {"lora_down.weight": torch.ones(RANK, SIDE), "lora_up.weight": torch.ones(SIDE, RANK)}
    ),
    "lora of eight bits": lambda: layers(
        8,
        {
            "lora_down.weight": torch.ones(RANK, SIDE).to(EIGHT),
            "lora_up.weight": torch.ones(SIDE, RANK).to(EIGHT),
        },
    ),
    "locon with a middle": lambda: layers(
        60,
        {
            "lora_down.weight": torch.ones(1, SIDE, 1, 1, dtype=HALF),
            "lora_mid.weight": torch.ones(32, 1, 3, 3, dtype=HALF),
            "lora_up.weight": torch.ones(SIDE, 32, 1, 1, dtype=HALF),
        },
    ),
    "loha of a low rank": lambda: layers(60, loha(20, SIDE, core=False)),
    "loha of a high rank": lambda: layers(60, loha(40, SIDE, core=False)),
    "loha of a convolution": lambda: layers(60, loha(8, SIDE, core=True)),
    "lokr with a middle": lambda: layers(
        20,
        {
            "lokr_w1": torch.ones(1, 1),
            "lokr_t2": torch.ones(8, 8, 1, 1),
            "lokr_w2_a": torch.ones(8, 4 * SIDE),
            "lokr_w2_b": torch.ones(8, 4 * SIDE),
        },
    ),
    "full weights of eight bits": lambda: layers(6, {"diff": torch.ones(2048, 2048).to(EIGHT)}),
    "no numbers": lambda: layers(
        12, {"diff": torch.full((2048, 2048), torch.nan, dtype=HALF).to(EIGHT)}
    ),
    "sparse": lambda: layers(
        4, Sparse(torch.arange(0, 2**21, 2), torch.ones(2**20), (2048, 1024)).tensors()
    ),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_takes_four_times_its_file_at_most(name: str, tmp_path: Path) -> None:
    save_file(ADAPTERS[name](), tmp_path / "a.safetensors")
    size = (tmp_path / "a.safetensors").stat().st_size
    assert peak(lambda: load_adapter(tmp_path / "a.safetensors")) < 4 * size + SPARE
    assert peak(lambda: describe(tmp_path / "a.safetensors")) < SPARE


NOTHING = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
HEADERS = {
    "tensors": lambda: {f"{n:x}": NOTHING for n in range(100_000)},
    "more tensors": lambda: {f"{n:x}": NOTHING for n in range(300_000)},
    "words": lambda: {"__metadata__": {f"{n:x}": "" for n in range(400_000)}, "a": NOTHING},
    "a preview": lambda: {
        "__metadata__": {"modelspec.thumbnail": "data:image/png;base64," + "A" * 60 * MEGA}
    },
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_alone_fills_no_memory(name: str, tmp_path: Path) -> None:
    text = json.dumps(HEADERS[name](), separators=(",", ":")).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    assert peak(lambda: describe(tmp_path / "a.safetensors")) < 2 * SPARE


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16"])
def test_a_picture_takes_four_times_its_pixels_at_most(mode: str, tmp_path: Path) -> None:
    """Pillow holds four bytes of each."""
    side = 4000
    picture = Image.new(mode, (side, side))
    if mode == "P":
        picture.info["transparency"] = 0
    picture.save(tmp_path / "a.png")
    assert peak(lambda: open_picture(tmp_path / "a.png")) < 4 * 4 * side**2 + SPARE


def test_texts_in_a_picture_fill_no_memory(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    for number in range(40):
        texts.add_text(f"a{number}", " " * MEGA, zip=True)
    texts.add_text("studio", "[" + "[]," * 20 * MEGA + "0]")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=texts)
    size = (tmp_path / "a.png").stat().st_size
    assert peak(lambda: read_recipe(tmp_path / "a.png")) < 4 * size + 2 * SPARE


def test_no_text_becomes_more_than_the_largest_may(tmp_path: Path) -> None:
    assert peak(lambda: parse_json("[" + "[]," * (2**23 // 3 - 1) + "0]", "it")) < LARGEST
    endless = "[" + "[]," * 2**23 + "0]"
    assert peak(lambda: parse_json(endless, "it")) < SPARE
    assert peak(lambda: parse_toml(f"a={endless}")) < SPARE
    line = b'{"step": 1, "loss": 0.12345, "lr": 0.0001, "seconds": 0.1234}\n'
    assert peak(lambda: parse_log(line * 100_000)) < 6 * len(line) * 100_000 + SPARE
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(200 * MEGA)
    assert peak(lambda: read_text(tmp_path / "a.txt")) < SPARE
