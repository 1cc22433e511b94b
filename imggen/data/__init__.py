"""From files to a cached array of uint8 pictures."""
