"""imggen export: a model's network in a file that other programs run without imggen."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from imggen.engine.options import ExportOptions
from imggen.engine.outputs import refuse_file
from imggen.errors import UsageError
from imggen.reporting import Reporter

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check(options: ExportOptions) -> None:
    """Refuse what can be refused early. Raises UsageError and DataError."""
    path = Path(options.output)
    if path.suffix not in (".onnx", ".pt2"):
        raise UsageError(f"{path} is neither .onnx nor .pt2", "-o model.onnx")
    refuse_file(path, options.force)
    if path.suffix == ".onnx" and any(find_spec(name) is None for name in PACKAGES):
        raise UsageError("ONNX needs onnx, onnxscript and onnxruntime", "pip install 'imggen[export]', or -o model.pt2")


def run(options: ExportOptions, reporter: Reporter) -> dict[str, Any]:
    """Export; returns the path, its inputs and outputs, its bytes, the model's hash and the seconds.

    Raises UsageError, DataError and CheckpointError.
    """
    check(options)
    from imggen.engine.export.export import export

    return export(options, reporter)
