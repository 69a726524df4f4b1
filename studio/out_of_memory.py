"""How it is said that there is not so much memory, by Python, PyTorch and what that calls."""

__all__ = ["is_out_of_memory"]

# Where it is not said by the type: CUDA's libraries, and on a CPU the allocator and oneDNN.
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
NO_MEMORY += ("bad_alloc", "could not create a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not so much memory."""
    import torch  # takes seconds, and is there already where its errors are

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
