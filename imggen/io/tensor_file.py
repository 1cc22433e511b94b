"""Tensors in the safetensors format: write, read and hash them.

The format is a table in JSON (io/checkpoint.py checks it) and the tensors' bytes. The safetensors library is not used:
it cannot open a file whose path is not Unicode, writes to a temporary file of its own naming, which a killed process
leaves behind, and reads through a memory map, where a file that shrinks meanwhile ends the process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from imggen.io.checkpoint import TensorInfo

DTYPE_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.uint16: "U16",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32", torch.uint32: "U32", torch.float32: "F32",
    torch.int64: "I64", torch.uint64: "U64", torch.float64: "F64",
}  # fmt: skip
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_ALIGNMENT = 8


@dataclass(frozen=True)
class TensorFile:
    """Tensors on the CPU, each of them contiguous, in the order in which the file has them."""

    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> TensorFile:
        """Those of any device and layout. Those of the widest dtypes come first, which keeps all of them aligned."""
        order = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
        return cls({name: tensor.detach().cpu().contiguous() for name, tensor in order})

    def hash(self) -> str:
        """SHA-256 over the names, dtypes, shapes and bytes of all tensors, in hexadecimal."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            _update(digest, name, tensor)
        return digest.hexdigest()

    def header(self, metadata: Mapping[str, str]) -> bytes:
        """The JSON that precedes the tensors, padded with blanks to a multiple of eight bytes."""
        table: dict[str, object] = {"__metadata__": dict(metadata)}
        end = 0
        for name, tensor in self.tensors.items():
            span = [end, end := end + tensor.nbytes]
            table[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        text = json.dumps(table, separators=(",", ":")).encode()
        return text + b" " * (-len(text) % _ALIGNMENT)

    def write(self, path: Path, header: bytes) -> None:
        """Write the file. Raises OSError."""
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for tensor in self.tensors.values():
                file.write(_bytes_of(tensor))


def read_and_hash(path: Path, table: Mapping[str, TensorInfo]) -> tuple[dict[str, Tensor], str]:
    """The tensors of a checked table, and their `TensorFile.hash`. Raises OSError, also if the file is too short."""
    tensors, digest = {}, hashlib.sha256()
    with path.open("rb") as file:
        for name, info in sorted(table.items()):
            tensor = torch.empty(info.shape, dtype=DTYPES[info.dtype])
            file.seek(info.offset)
            if file.readinto(_bytes_of(tensor)) != tensor.nbytes:
                raise OSError("it became shorter meanwhile")
            _update(digest, name, tensor)
            tensors[name] = tensor
    return tensors, digest.hexdigest()


def _update(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode("utf-8", "surrogatepass"))
    digest.update(_bytes_of(tensor))


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
