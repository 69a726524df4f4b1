"""An adapter with one folder for each component, as peft's training scripts leave it.

There is `unet/adapter_model.safetensors` beside its `adapter_config.json`, and the same in
`text_encoder` and `text_encoder_2`. The folders are read as if they were one file, in which each
tensor's name begins with its component's.
"""

from pathlib import Path

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
FILE = "adapter_model.safetensors"


def component_files(folder: Path) -> dict[str, Path]:
    """The file of each component that has one; empty for any other folder."""
    files = {component: folder / component / FILE for component in COMPONENTS}
    return {component: file for component, file in files.items() if file.is_file()}
