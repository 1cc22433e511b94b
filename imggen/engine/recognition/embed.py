"""Images to a file of vectors."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np

from imggen.data.scan import open_images
from imggen.engine.options import EmbedOptions
from imggen.engine.recognition.embedder import open_named_embedder
from imggen.engine.recognition.vectors import Vectors, embed_source, write_vectors
from imggen.io.atomic import atomic_write
from imggen.io.csv_line import csv_line
from imggen.reporting import Reporter


def embed(options: EmbedOptions, reporter: Reporter) -> dict[str, Any]:
    """Write the vectors; see `imggen.engine.recognition.run_embed`."""
    began = time.monotonic()
    source = open_images(options.image, reporter)
    embedder = open_named_embedder(options, reporter)
    vectors = embed_source(source, embedder, reporter)
    path = Path(options.output)
    if path.suffix.lower() == ".safetensors":
        write_vectors(path, vectors)
    else:
        atomic_write(path, _npz(vectors) if path.suffix.lower() == ".npz" else _csv(vectors))
    return {
        "paths": [options.output],
        "count": len(vectors),
        "dimensions": vectors.vectors.shape[1],
        "hash": embedder.hash,
        "seconds": round(time.monotonic() - began, 3),
    }


def _npz(vectors: Vectors) -> bytes:
    """An archive of arrays: names (N,), vectors (N, D) float16, center (D,) float32; no pickles."""
    buffer = io.BytesIO()
    np.savez(buffer, names=np.array(vectors.names), vectors=vectors.vectors.numpy(), center=vectors.center.numpy())
    return buffer.getvalue()


def _csv(vectors: Vectors) -> bytes:
    """A line for each image: its path, then its vector."""
    lines = [csv_line(["path", *(f"v{number}" for number in range(vectors.vectors.shape[1]))])]
    for name, vector in zip(vectors.names, vectors.vectors.float().tolist(), strict=True):
        lines.append(csv_line([name, *(f"{value:.5g}" for value in vector)]))
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
