"""Rewards: adapters that move a base's pictures towards a measured score. Nothing is downloaded.

A file of this folder holds one frozen dataclass, an `Alignment`
(trainers/engine/from_prompts/alignment.py), whose name in lower case is the file's. The loop that
trains every kind trains it too. PyTorch is imported inside of functions, since options are read
without it.
"""
