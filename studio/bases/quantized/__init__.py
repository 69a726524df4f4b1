"""Store a UNet's weights in fewer bits (fp8, NF4), and dequantize them at each use."""
