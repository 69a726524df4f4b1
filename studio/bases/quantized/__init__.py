"""A UNet's weights stored in fewer bits (fp8, NF4), widened each time they are used."""
