"""What all methods of mixing share: the denoising loop, caches, schedules."""
