"""The data of a training: batches, the latent cache, class pictures, random draws."""
