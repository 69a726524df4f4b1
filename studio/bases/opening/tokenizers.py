"""Open the tokenizers of a base: its own, or CLIP's vocabulary from this machine or the hub."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download, try_to_load_from_cache
from transformers import CLIPTokenizer

from studio.bases.resolve import is_hub_reachable
from studio.errors import BadInput

# Every CLIP text encoder here shares one vocabulary; only the padding differs.
PADDING = {"sd1": ("<|endoftext|>",), "sd2": ("!",), "sdxl": ("<|endoftext|>", "!")}
VOCABULARIES = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer/"),
)


def open_tokenizers(base: Path, family: str, places: Sequence[Path]) -> tuple[CLIPTokenizer, ...]:
    """The base's own tokenizers, or CLIP's with the family's padding.

    base: the base's file or folder.  places: folders that may contain `tokenizer` and
    `tokenizer_2`; the first that does counts. Raises BadInput where no vocabulary can be found.
    """
    names = ("tokenizer", "tokenizer_2")[: len(PADDING[family])]
    folders = [
        next(filter(_has_vocabulary, (place / name for place in places)), None) for name in names
    ]
    first = folders[0] or _clip_vocabulary(base)
    return tuple(
        CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        if folder and (folder / "tokenizer_config.json").is_file()
        else CLIPTokenizer.from_pretrained(
            folder or first, pad_token=pad, model_max_length=77, local_files_only=True
        )
        for folder, pad in zip(folders, PADDING[family], strict=True)
    )


def _has_vocabulary(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()


def _clip_vocabulary(path: Path) -> Path:
    """CLIP's vocabulary from the Hugging Face cache, else from the hub."""
    for repository, folder in VOCABULARIES:
        vocabulary = try_to_load_from_cache(repository, f"{folder}vocab.json")
        merges = try_to_load_from_cache(repository, f"{folder}merges.txt")
        if isinstance(vocabulary, str) and isinstance(merges, str):
            return Path(vocabulary).parent
    repository = VOCABULARIES[0][0]
    if is_hub_reachable():
        try:
            return Path(snapshot_download(repository, allow_patterns=["vocab.json", "merges.txt"]))
        except OSError as error:
            raise BadInput(f"The tokenizer for {path} could not be downloaded: {error}") from error
    place = "in it" if path.is_dir() else "beside it"
    raise BadInput(
        f"{path} holds no tokenizer and there is none on this machine: put a folder `tokenizer` "
        f"with vocab.json and merges.txt of {repository} {place}, or connect once to download it."
    )
