"""imggen sample."""
