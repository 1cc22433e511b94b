"""Classifiers: images to classes, by a network of their own or by the backbone of another model."""
