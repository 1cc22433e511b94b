"""imggen interpolate."""
