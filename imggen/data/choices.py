"""Choices for how images are read: the command line needs them, and imports nothing else of data."""

from __future__ import annotations

CROPS = ("center", "random", "pad")
KEEP = ("auto", "disk", "none")  # whether decoded images are kept on the disk
