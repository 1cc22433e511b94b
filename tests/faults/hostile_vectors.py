"""Damaged files of vectors: what `imggen search` reads from its cache, and `imggen info` from anyone."""

from __future__ import annotations

import functools

import numpy as np
import torch

from imggen.engine.info import describe_file
from imggen.engine.recognition.vectors import Vectors, read_vectors, write_vectors
from imggen.errors import ImggenError
from tests.faults.hostile import Target
from tests.faults.hostile_checkpoints import folder, repair


@functools.cache
def vectors_seeds() -> list[bytes]:
    """Vectors of three images, one of which has a name that is not Unicode."""
    about = {"model": "vae", "hash": "0123456789ab", "size": 16, "channels": 3, "source": "/photos", "key": "0a1b"}
    about |= {"images": 3, "stamp": ""}
    numbers = np.array([1, -2, 3])
    values = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)).half()
    vectors = Vectors(["a.png", "b/\udcff.png", "c"], values, numbers, numbers, torch.zeros(5), about)
    path = folder() / "seed"
    write_vectors(path, vectors)
    return [path.read_bytes()]


def run_vectors(data: bytes) -> bool:
    """Read them, compare them, and describe the file."""
    path = folder() / "v.safetensors"
    path.write_bytes(data)
    try:
        vectors = read_vectors(path)
        directions = vectors.directions()
        assert directions.shape[0] == len(vectors) == len(vectors.names) == len(vectors.rows) == len(vectors.pixels)
        describe_file(path)
    except ImggenError as error:
        assert error.exit_code == 3 and len(error.message) < 1000
        return False
    return True


TARGETS = {"vectors": Target(vectors_seeds, run_vectors, functools.partial(repair, seeds=vectors_seeds))}
