"""The key names and tensor layouts of other programs' adapter files, read and written.

Read: peft and diffusers in all their dialects, kohya's sd-scripts, LyCORIS (LoCon, LoHa, LoKr,
full, DoRA) and DiffuseKronA's authors. Written: diffusers, kohya, LyCORIS. Learned words, beside an
adapter's layers or alone as textual inversion, both ways.

`metadata`, `names`, `survey` and `textual_inversion` work without PyTorch, which takes seconds to
import.
"""
