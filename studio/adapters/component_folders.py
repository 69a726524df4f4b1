"""An adapter in one folder a component, as peft's training scripts leave it.

`unet/adapter_model.safetensors` beside its `adapter_config.json`, and the same in `text_encoder`
and `text_encoder_2`. Read as if it were one file, each tensor's name behind its component's.
"""

from pathlib import Path

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
FILE = "adapter_model.safetensors"


def component_files(folder: Path) -> dict[str, Path]:
    """The file of each component that has one; none where it is no such folder."""
    files = {component: folder / component / FILE for component in COMPONENTS}
    return {component: file for component, file in files.items() if file.is_file()}
