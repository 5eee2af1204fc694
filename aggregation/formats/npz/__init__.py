"""NumPy archives (`.npz`), read by ranges and written part by part."""
