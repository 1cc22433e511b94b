"""Write tensors in the safetensors format, straight into the file that is wanted, and hash them.

The library's own `save_file` writes to a temporary file of its own naming, which a killed process leaves behind, and
wants a second copy of every tensor. Reading is left to the library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int32: "I32", torch.float32: "F32", torch.int64: "I64", torch.float64: "F64",
}  # fmt: skip
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

    def digest(self) -> str:
        """SHA-256 over the names, dtypes, shapes and bytes of all tensors, in hexadecimal."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(_bytes_of(tensor))
        return digest.hexdigest()

    def header(self, metadata: Mapping[str, str]) -> bytes:
        """The JSON that precedes the tensors, padded with blanks to a multiple of eight bytes."""
        table: dict[str, object] = {"__metadata__": dict(metadata)}
        end = 0
        for name, tensor in self.tensors.items():
            start, end = end, end + tensor.nbytes
            table[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        text = json.dumps(table, separators=(",", ":")).encode()
        return text + b" " * (-len(text) % _ALIGNMENT)

    def write(self, path: Path, header: bytes) -> None:
        """Write the file. Raises OSError."""
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for tensor in self.tensors.values():
                file.write(_bytes_of(tensor))


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
