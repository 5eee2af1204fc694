"""JSON lists of layers, parsed and written part by part."""
