"""What drawing and training cost on a GPU, beside diffusers and peft."""
