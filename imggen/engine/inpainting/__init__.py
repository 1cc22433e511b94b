"""imggen inpaint."""
