"""Mappers: one network that turns images into images, or into a class for every pixel."""
