"""How near pictures are to pictures: the feature extractor, and the figures worked out from its features."""
