"""The error and the advice for a job that ran out of memory."""

from studio.queue.job import Job

SHORTAGE = "there was not enough memory"  # in place of the allocator's message


def memory_advice(job: Job) -> str:
    """Advice on settings that take less memory and that this job doesn't use yet."""
    loading = job.arguments["loading"]
    assert isinstance(loading, dict)
    stored = [] if loading.get("quantize", "none") != "none" else ["the base quantized to fp8"]
    if job.kind != "train":
        ways = ["a smaller width and height"]
        ways += [option for option in ("vae_tiling", "offload") if not loading.get(option)]
        ways += stored
        return f"draw it again with {', '.join(ways)}"
    recipe = job.arguments["recipe"]
    assert isinstance(recipe, dict)
    ways = ["a smaller batch with more accumulation", "a smaller size", "a lower rank"]
    ways += [] if recipe.get("checkpointing") else ["checkpointing"]
    ways += [] if recipe.get("precision") == "bf16" else ["the precision bf16"]
    return f"train with {', '.join(ways + stored)}"
