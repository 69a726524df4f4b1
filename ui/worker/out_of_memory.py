"""A job that wanted more memory than there is: what happened, and what would take less."""

from studio.queue.job import Job

SHORTAGE = "there was not enough memory"  # the allocator's own words help nobody


def memory_advice(job: Job) -> str:
    """What would take less memory, of what this job did not do already."""
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
