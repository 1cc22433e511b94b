"""imggen evaluate."""
