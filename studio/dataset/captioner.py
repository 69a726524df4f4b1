"""Write captions with an image-to-text model: BLIP, GIT or Florence-2, opened by transformers.

captioner = open_captioner("models/blip-image-captioning-base")
captioner.caption("photos/robot.jpg")        # "a red robot in a meadow"

Nothing is downloaded: a hub id means a model in Hugging Face's cache. Weights must be safetensors,
and no code in a model's folder is run. `find_captioners` imports no PyTorch.

BLIP: Li et al. 2022, arXiv 2201.12086. GIT: Wang et al. 2022, arXiv 2205.14100. Florence-2: Xiao et
al. 2023, arXiv 2311.06242; Studio asks it for its detailed caption.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.bases.names import HUB_ID
from studio.dataset.captions import tidy
from studio.errors import BadInput, reason_of
from studio.files import expand_home, read_text
from studio.json_value import parse_object
from studio.picture import load_picture

KINDS = ("blip", "git", "florence2")  # `model_type` in a config.json
NAMES = "BLIP, GIT or Florence-2"
TASK = "<DETAILED_CAPTION>"  # Florence-2's prompt
LONGEST = 75  # tokens of a caption, as many as one piece of a prompt has
ADVICE = "hf download Salesforce/blip-image-captioning-base"


@dataclass(frozen=True)
class Captioner:
    """An open model; `caption` writes the same text for a picture every time."""

    kind: str
    _model: Any
    _processor: Any

    def caption(self, picture: str | Path) -> str:
        """What the picture shows, in one line. Raises BadPicture where it cannot be read."""
        import torch

        image = load_picture(picture)
        task = {"text": TASK} if self.kind == "florence2" else {}
        inputs = self._processor(images=image, return_tensors="pt", **task)
        inputs = inputs.to(self._model.device, self._model.dtype)
        with torch.inference_mode():
            tokens = self._model.generate(
                **inputs, max_new_tokens=LONGEST, do_sample=False, num_beams=1
            )
        (text,) = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return tidy(text)


def open_captioner(source: str | Path) -> Captioner:
    """Open a captioner, given by its folder or by the hub id of a model in the cache.

    On a GPU it computes in half precision. Raises BadInput where there is no such captioner.
    """
    folder = find_captioner(source)
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    from studio.bases.device import parse_device, parse_dtype

    device = parse_device("auto")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(folder, **own)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, dtype=parse_dtype("auto", device), **own
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"the captioner {source} cannot be opened: {reason_of(error)}") from error
    return Captioner(_kind(folder), model.to(device).eval(), processor)


def find_captioner(source: str | Path) -> Path:
    """The folder of a captioner on this machine. Raises BadInput for a missing or other model."""
    from studio.bases.resolve import cached_snapshot  # the hub's client takes half a second

    folder = expand_home(source)
    if not folder.is_dir():
        folder = cached_snapshot(str(source)) if HUB_ID.fullmatch(str(source)) else None
    if folder is None:
        raise BadInput(
            f"there is no captioner {str(source)!r} on this machine: give the folder of a "
            f"{NAMES} model, or fetch one with: {ADVICE}"
        )
    if (kind := _kind(folder)) not in KINDS:
        what = f"is a model of the kind {kind}" if kind else "has no config.json of a model"
        raise BadInput(f"{source} {what}; captions are written by {NAMES}")
    if not any(folder.glob("*.safetensors")):
        raise BadInput(f"{source} has no .safetensors file, and others are not read")
    return folder


def find_captioners() -> list[str]:
    """The hub ids of the captioners in Hugging Face's cache."""
    from huggingface_hub import constants

    from studio.bases.resolve import cached_snapshot

    names = [path.name for path in Path(constants.HF_HUB_CACHE).glob("models--*--*")]
    ids = [name.removeprefix("models--").replace("--", "/", 1) for name in sorted(names)]
    return [id for id in ids if (folder := cached_snapshot(id)) and _kind(folder) in KINDS]


def _kind(folder: Path) -> str:
    """The `model_type` in a folder's config.json; "" where there is none."""
    try:
        text = read_text(folder / "config.json")
        return str(parse_object(text, str(folder)).get("model_type", ""))
    except BadInput:
        return ""
