"""Reading the parts of a base from a folder, a checkpoint and a VAE's file."""
