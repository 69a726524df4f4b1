"""The bundled bases `sketch` and `sketch-sd1`, the drawings they learn from, and their judge."""
