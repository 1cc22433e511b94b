"""Checkpoints and pictures on disk."""
