"""Captioners of random weights, saved as transformers saves them."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    PreTrainedModel,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MEANT = ("a", "red", "robot", "in", "the", "meadow", "blue", "house", "on", "moon", "glass")
WORDS = (*SPECIAL, *MEANT)
SIDES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
SHAPE: dict[str, Any] = {**SIDES, "num_attention_heads": 2}
SEEING: dict[str, Any] = {**SHAPE, "image_size": 32, "patch_size": 16}
TOLD: dict[str, Any] = {"vocab_size": len(WORDS), "max_position_embeddings": 128}
TOKENS: dict[str, Any] = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def tiny_captioner(folder: Path, kind: str = "blip") -> Path:
    """Write a model of this kind into a new folder; returns the folder."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    if kind == "git":
        config = GitConfig(vision_config=SEEING, **SHAPE, **TOLD, **TOKENS)
        _lively(GitForCausalLM(config)).save_pretrained(folder)
        side = {"height": 32, "width": 32}
        seen = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side)
        GitProcessor(seen, tokenizer).save_pretrained(folder)
        return folder
    text = {**SHAPE, **TOLD, **TOKENS, "sep_token_id": 3, "encoder_hidden_size": 16}
    config = BlipConfig(text_config=text, vision_config=SEEING, projection_dim=16)
    _lively(BlipForConditionalGeneration(config)).save_pretrained(folder)
    seen = BlipImageProcessorPil(size={"height": 32, "width": 32})
    BlipProcessor(seen, tokenizer).save_pretrained(folder)
    return folder


def _lively(model: PreTrainedModel) -> PreTrainedModel:
    """With weights so large that what it sees makes a difference."""
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.5)
    return model
