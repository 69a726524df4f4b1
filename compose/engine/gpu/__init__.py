"""Using a GPU: its memory, and CUDA graphs for small passes."""
