"""Mutations are the same at every run, and nearly all of them change the file."""

import io

from PIL import Image

from tests.faults.mutate import PNG_SIGNATURE, mutations, repair_png


def test_mutations_are_deterministic_and_differ() -> None:
    seed = bytes(range(256)) * 4 + b'{"size": 12}'
    first, again = list(mutations(seed, 300, 1)), list(mutations(seed, 300, 1))
    assert first == again and first != list(mutations(seed, 300, 2))
    assert len(set(first)) > 280 and seed not in first[:5]
    assert min(map(len, first)) < len(seed) < max(map(len, first))
    assert len(list(mutations(b"", 300, 1))) == 300


def test_repaired_png_has_right_checksums() -> None:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), 7).save(buffer, "PNG")
    whole = buffer.getvalue()
    damaged = bytearray(whole)
    damaged[29:33] = b"\0\0\0\0"  # the checksum of the header
    assert repair_png(bytes(damaged)) == whole
    assert repair_png(b"GIF89a") == b"GIF89a" and repair_png(PNG_SIGNATURE + b"\xff" * 40).startswith(PNG_SIGNATURE)
