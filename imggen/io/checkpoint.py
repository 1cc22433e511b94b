"""Checkpoints: one safetensors file each, with the tensors, and a JSON document in the metadata. No pickle.

A checkpoint is of one kind: "weights" (a model), "state" (what training needs to resume), "features" (a feature
extractor), "vectors" (what a model sees in images) or "directions" (of its noise). The document holds its
configuration. Everything read is checked, because a file may come from anywhere: the header within bounds, the
description and the tensors against their hashes. The hashes find damage; they do not prove who made the file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imggen.documents import COUNT, OBJECT, TEXT, DocumentError, Kind, read_fields, read_json
from imggen.documents import MAX_BYTES as MAX_HEADER_BYTES
from imggen.errors import CheckpointError, DataError, shortened
from imggen.io.atomic import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
KINDS = ("weights", "state", "features", "vectors", "directions")
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
FLOATS = ("F16", "BF16", "F32", "F64")
TENSORS_HASH, METADATA_HASH = "modelspec.hash_sha256", "imggen.hash"
_KIND = Kind("one of " + ", ".join(KINDS), lambda value: value in KINDS)
_OTHER_ZIPS = (".zip", ".npz")  # of images, and of vectors: no pickles
_MAX_TENSORS = 100_000
_MAX_DIMENSIONS = 16


@dataclass(frozen=True)
class TensorInfo:
    """Dtype (as safetensors names it) and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """Everything in a checkpoint but the tensors' values; `size` is the file's, in bytes."""

    kind: str
    document: dict[str, Any]
    tensors: dict[str, TensorInfo]
    size: int
    metadata: dict[str, str]


def write_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    document: Mapping[str, Any],
    *,
    kind: str,
    thumbnail: bytes | None = None,
) -> None:
    """Write a checkpoint atomically and durably. Raises DataError if it cannot be written.

    Its metadata has a hash over all tensors, and one over the rest of the metadata. Weights and features also
    carry the other keys of ModelSpec 1.0.1, among them, if given, `thumbnail`, the bytes of a PNG.
    """
    from imggen.io.tensor_file import hash_tensors, on_cpu, to_bytes

    copies = on_cpu(tensors)
    metadata = {
        "imggen": json.dumps({**document, "format": FORMAT, "kind": kind}),
        TENSORS_HASH: "0x" + hash_tensors(copies),
    }
    if kind in ("weights", "features"):
        config = document.get("config", {})
        name = "imggen/features" if kind == "features" else f"imggen/{config.get('family')}/{config.get('preset')}"
        metadata |= {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": name,
            "modelspec.implementation": "imggen",
            "modelspec.title": name,
            "modelspec.date": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        for key in ("author", "license"):
            if key in document.get("provenance", {}):
                metadata[f"modelspec.{key}"] = str(document["provenance"][key])
        if thumbnail is not None:
            metadata["modelspec.thumbnail"] = "data:image/png;base64," + base64.b64encode(thumbnail).decode()
    metadata[METADATA_HASH] = metadata_hash(metadata)
    data = to_bytes(copies, metadata)
    if int.from_bytes(data[:8], "little") > MAX_HEADER_BYTES:
        raise DataError(f"{path} cannot be written: its description is too long", "use fewer or shorter class names")
    with atomic_path(path, durable=True) as sibling:
        sibling.write_bytes(data)


def metadata_hash(metadata: Mapping[str, str]) -> str:
    """SHA-256 over all metadata but itself, in hexadecimal; with the tensors' hash it covers the whole file."""
    covered = {name: value for name, value in sorted(metadata.items()) if name != METADATA_HASH}
    return hashlib.sha256(json.dumps(covered).encode()).hexdigest()


def weights_hash(header: Header) -> str:
    """The first 12 hexadecimal digits of the hash over all tensors."""
    return header.metadata[TENSORS_HASH][2:14]


def read_header(path: Path, kind: str | None = None) -> Header:
    """Read and check everything but the tensors' values, without torch.

    Raises CheckpointError, with a message of one line, for any defect, and if the kind is not `kind`.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait
            raise _damaged(path, "cannot be read: it is not a file", "give a checkpoint, or a run's folder")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # of this file: a training may replace it meanwhile
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                # Only now, because the length of a valid header can also begin with a pickle's first byte.
                is_zip = prefix[:4] == b"PK\x03\x04" and path.suffix.lower() not in _OTHER_ZIPS
                if is_zip or prefix[:1] == b"\x80":
                    raise _damaged(path, "is a pickle", "imggen reads safetensors only: a pickle can run any code")
                raise _damaged(path, "is not a safetensors file, or was cut short")
            raw = file.read(length)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}", "imggen models lists what there is") from error
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror}", "check the disk and its permissions") from error
    try:
        table = read_json(raw)
        read_fields(table, {})
        metadata = table.pop("__metadata__", {})
        read_fields(metadata, dict.fromkeys(metadata if isinstance(metadata, dict) else (), TEXT))
    except DocumentError as error:
        raise _damaged(path, "has a damaged header") from error
    tensors = _tensors(path, table, 8 + length, size)
    document = _document(path, metadata, kind)
    return Header(document["kind"], document, tensors, size, metadata)


def _damaged(path: Path, what: str, hint: str | None = None) -> CheckpointError:
    """The error for a file that cannot be used; `what` completes a sentence that begins with the path."""
    return CheckpointError(f"{path} {what}", hint or "copy it again, or use another checkpoint")


def _is_count(value: Any) -> bool:
    """Whether a JSON value is an integer of a plausible size."""
    return type(value) is int and 0 <= value < 2**48


def _tensors(path: Path, table: dict[str, Any], start: int, size: int) -> dict[str, TensorInfo]:
    """The header's table of tensors, which must fill the file of `size` bytes from `start` without gap or overlap."""
    if len(table) > _MAX_TENSORS:
        raise _damaged(path, "has a damaged header")
    tensors: dict[str, TensorInfo] = {}
    spans = []
    for name, entry in table.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise _damaged(path, f"has a damaged entry '{shortened(name)}'")
        dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
        valid = isinstance(dtype, str) and dtype in DTYPE_BYTES
        valid = valid and isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS and all(map(_is_count, shape))
        valid = valid and isinstance(span, list) and len(span) == 2 and all(map(_is_count, span))
        if not valid or span[1] - span[0] != math.prod(shape) * DTYPE_BYTES[dtype]:
            raise _damaged(path, f"has a damaged entry '{shortened(name)}'")
        tensors[name] = TensorInfo(dtype, tuple(shape))
        spans.append((span[0], span[1]))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise _damaged(path, "has tensors that overlap or leave gaps")
        position = end
    if start + position != size:
        raise _damaged(path, "was cut short, or has bytes that belong to no tensor")
    return tensors


def _document(path: Path, metadata: dict[str, str], kind: str | None) -> dict[str, Any]:
    """imggen's JSON document, of this format and, if given, of this kind."""
    if "imggen" not in metadata:
        raise _damaged(path, "is a safetensors file, but not one of imggen's", "imggen models lists what there is")
    try:
        document = read_json(metadata["imggen"])
        read_fields(document, {"format": COUNT, "kind": _KIND})
        read_fields(document, {name: OBJECT for name in ("config", "provenance") if name in document})
    except DocumentError as error:
        raise _damaged(path, f"has a damaged description: it {error}") from error
    if document["format"] != FORMAT:
        raise _damaged(path, f"has format {document['format']}; this imggen reads {FORMAT}", "pip install -U imggen")
    if kind is not None and document["kind"] != kind:
        raise _damaged(
            path,
            f"holds {document['kind']}, not {kind}",
            "weights.safetensors is the model, state.safetensors resumes a training",
        )
    if metadata.get(METADATA_HASH) != metadata_hash(metadata) or TENSORS_HASH not in metadata:
        raise _damaged(path, "does not match its own hash: its description was damaged or changed")
    return document


def read_tensors(path: Path, header: Header, expected: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Read all tensors, which must match their hash, and be finite.

    Their names and shapes must be those of `expected`, if given; so must their dtypes, but for floating-point numbers
    of another width. Weights and features are converted to float32; a state and vectors are returned as stored. Raises
    CheckpointError.
    """
    from imggen.io.tensor_file import all_finite, hash_tensors, read_tensor_file

    if expected is not None:
        _check_fit(path, header, expected)
    try:
        tensors = read_tensor_file(path)
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror or error}", "check the disk") from error
    except ValueError as error:
        raise _damaged(path, f"cannot be read: {error}") from error
    if header.metadata[TENSORS_HASH] != "0x" + hash_tensors(tensors):
        raise _damaged(path, "does not match its own hash: it was damaged or changed")
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            if header.kind not in ("state", "vectors"):
                tensors[name] = tensor.float()
            if not all_finite(tensors[name]):
                raise _damaged(
                    path, f"holds values that are not finite ('{shortened(name)}')", "use an earlier checkpoint"
                )
    return tensors


def _check_fit(path: Path, header: Header, expected: Mapping[str, Tensor]) -> None:
    from imggen.io.tensor_file import DTYPE_NAMES

    missing = sorted(set(expected) - set(header.tensors))
    extra = sorted(set(header.tensors) - set(expected))
    if missing or extra:
        difference = (
            f"lacks {shortened(', '.join(missing[:3]))}"
            if missing
            else f"has unknown tensors: {shortened(', '.join(extra[:3]))}"
        )
        raise _damaged(path, f"does not fit its own configuration: it {difference}")
    for name, tensor in expected.items():
        found, shape, dtype = header.tensors[name], tuple(tensor.shape), DTYPE_NAMES[tensor.dtype]
        if found.shape != shape:
            raise _damaged(path, f"does not fit its own configuration: '{name}' is {found.shape}, not {shape}")
        if found.dtype != dtype and not (found.dtype in FLOATS and dtype in FLOATS):
            raise _damaged(path, f"does not fit its own configuration: '{name}' is {found.dtype}, not {dtype}")
