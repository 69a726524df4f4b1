"""Read the parts of a base from a folder, a checkpoint or a VAE's file."""
