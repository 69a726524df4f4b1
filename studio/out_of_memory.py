"""Recognise the errors of Python, PyTorch and its libraries that mean "out of memory"."""

# Errors of CUDA's libraries, of the allocator and of oneDNN have no type of their own.
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
NO_MEMORY += ("bad_alloc", "could not create a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    import torch  # takes seconds; it is loaded already where its errors occur

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
