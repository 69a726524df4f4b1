"""What a base is told to be before it is opened is what it turns out to be."""

import sys
from pathlib import Path
from subprocess import run

import pytest

from studio import BadInput, load_base
from studio.bases.info import read_base_info


@pytest.mark.parametrize("source", ["sketch", "sketch-sd1"])
def test_our_bases_are_as_told(source: str) -> None:
    told, base = read_base_info(source), load_base(source, device="cpu")
    assert told
    sizes = (told.size, told.step, told.latent_factor)
    assert (told.name, told.family) == (base.name, base.family)
    assert sizes == (base.size, base.step, base.latent_factor)


def test_a_folder_is_as_told(sd1_folder: Path) -> None:
    told, base = read_base_info(str(sd1_folder)), load_base(sd1_folder, device="cpu")
    assert told and (told.family, told.size, told.step) == (base.family, base.size, base.step)


def test_what_is_not_here_yet_is_not_known() -> None:
    assert read_base_info("somebody/never-downloaded-by-studio") is None


def test_what_is_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"model_index\.json is missing"):
        read_base_info(str(tmp_path))


def test_no_pytorch_is_imported() -> None:
    code = (
        "import sys; from studio.bases.info import read_base_info; read_base_info('sketch'); "
        "import studio.dataset.pictures"
    )
    done = run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=False)
    assert done.returncode == 0
