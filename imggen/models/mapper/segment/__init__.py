"""Segmentation: a class for every pixel, learned from images with their masks."""
