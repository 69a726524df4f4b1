"""The clip skip of a training, told by the adapter's file."""

from pathlib import Path

import pytest
import torch

from studio.adapters.adapter import Adapter
from studio.adapters.delta import LowRank
from studio.adapters.formats.convert import to_kohya
from studio.adapters.formats.metadata import read_info, trained_clip_skip
from studio.bases.base import Base
from studio.bases.load import load_base


@pytest.mark.parametrize(
    ("version", "written", "expected"),
    [("sd_v1", "2", 2), ("sd_v1", "None", None), ("sdxl_base_v1-0", "1", None)],
)
def test_kohyas_files_are_read(version: str, written: str, expected: int | None) -> None:
    metadata = {"ss_base_model_version": version, "ss_clip_skip": written}
    assert trained_clip_skip(read_info(metadata, Path("a"))) == expected


def test_files_for_kohya_say_it(sd1_folder: Path) -> None:
    base: Base = load_base(sd1_folder)
    name = next(name for name in base.layers() if name.endswith("attn1.to_q"))
    delta = LowRank.start(base.layers()[name], 2, alpha=2, generator=torch.Generator())
    recipe = {"training": {"clip_skip": 2}}
    adapter = Adapter(deltas={name: delta}, kind="lora", family="sd1", recipe=recipe)
    _, metadata = to_kohya(adapter)
    assert metadata["ss_clip_skip"] == "2"
    assert trained_clip_skip(read_info(metadata, Path("a"))) == 2
