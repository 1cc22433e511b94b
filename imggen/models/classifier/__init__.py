"""Classifiers: images to classes, by a network of their own or by the eyes of another model."""
