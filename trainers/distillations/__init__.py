"""Distillations: adapters that make a base fast. They learn from the base itself, from prompts.

A file of this folder holds one frozen dataclass, a `Distillation`
(trainers/engine/from_prompts/distillation.py), whose name in lower case is the file's. It is
trained by the loop that trains every kind.
"""
