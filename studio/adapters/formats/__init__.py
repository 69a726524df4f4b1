"""Read and write the adapter files of other programs: their key names and tensor layouts.

Read: peft and diffusers in all their dialects, kohya's sd-scripts, LyCORIS (LoCon, LoHa, LoKr,
full, DoRA), OneTrainer and DiffuseKronA's authors. Written: diffusers, peft, kohya, LyCORIS and
OneTrainer. Learned words are read and written both beside an adapter's layers and alone, as textual
inversion.

`metadata`, `names`, `survey` and `textual_inversion` work without PyTorch, which takes seconds to
import.
"""
