"""Rewards: adapters that move a base's pictures to what can be measured. Nothing is downloaded.

A file of this folder holds one frozen dataclass, an `Alignment`
(trainers/engine/from_prompts/alignment.py), whose name in lower case is the file's. It is trained
by the loop that trains every kind. PyTorch is imported where it computes, since options are read
without it.
"""
