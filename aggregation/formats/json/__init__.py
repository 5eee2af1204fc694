"""JSON lists of layers, read and written block by block."""
