"""What a training reads: the order of pictures, cached latents, class pictures."""
