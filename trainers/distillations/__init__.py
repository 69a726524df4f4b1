"""Distillations: adapters that make a base fast. They learn from prompts and from the base itself.

A file of this folder holds one frozen dataclass, a `Distillation`
(trainers/engine/from_prompts/distillation.py), whose name in lower case is the file's. The loop
that trains every kind trains it too.
"""
