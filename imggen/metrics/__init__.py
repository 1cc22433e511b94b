"""How similar two sets of images are: a feature extractor, and the metrics computed from its features."""
