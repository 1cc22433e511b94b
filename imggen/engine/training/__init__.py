"""imggen train."""
