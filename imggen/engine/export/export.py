"""Export a graph as ONNX or for torch.export, after it has been compared with the model itself."""

from __future__ import annotations

import io
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import imggen
from imggen.engine.checkpoints import LoadedModel, load_model, prepare
from imggen.engine.export.graphs import Graph, SamplerGraph, build_graph
from imggen.engine.options import ExportOptions
from imggen.errors import CheckpointError, first_line
from imggen.io.atomic import atomic_write
from imggen.reporting import Reporter

EXAMPLES = 4  # rows that the graph is traced with
SEEDS, AT_ONCE = 100, 24  # compared with the model; the last batch is smaller
# Of the pixels of the seeds: where two colors are equally likely, or alpha is on its edge, rounding decides.
UNEQUAL_PIXELS = 1e-4
TOLERANCE = 1e-3  # of float outputs, times the largest value
MAX_IMAGES, MAX_SIDE = 1 << 20, 1 << 16

Run = Callable[[Sequence[npt.NDArray[Any]]], Sequence[Any]]
"""Inputs → outputs of an exported network."""


def export(options: ExportOptions, reporter: Reporter) -> dict[str, Any]:
    """Write the file; see `imggen.engine.export.run`."""
    began = time.monotonic()
    loaded = load_model(options.model, weights=options.weights, device="cpu")
    prepare(loaded, reporter, full_precision=True)
    graph = build_graph(loaded, options.part).eval()
    about = _describe(loaded, graph)
    path = Path(options.output)
    write = _to_onnx if path.suffix == ".onnx" else _to_torch
    with reporter.task("exporting", 2) as task, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            data, run = write(graph, about)
        except Exception as error:  # of PyTorch's exporter, which raises nearly anything
            raise CheckpointError(
                f"{loaded.path} cannot be exported: {first_line(error)}", "another PyTorch may be able to"
            ) from error
        task.update(1)
        difference = compare(graph, run)
    atomic_write(path, data)
    reporter.info(f"checked {SEEDS} seeds: {difference}")
    for kind in ("inputs", "outputs"):
        for array in getattr(graph, kind):
            reporter.info(f"{kind[:-1]:7} {array.name}: {array.meaning}")
    return {
        "paths": [str(path)],
        **{kind: {array.name: array.meaning for array in getattr(graph, kind)} for kind in ("inputs", "outputs")},
        "bytes": len(data),
        "hash": loaded.hash,
        "seconds": round(time.monotonic() - began, 3),
    }


def _describe(loaded: LoadedModel, graph: Graph) -> dict[str, str]:
    """What the file says about itself, as texts by name."""
    config, provenance = loaded.model.config, loaded.provenance
    about = {
        "generator": f"imggen {imggen.__version__}",
        "model": f"{config.family}/{config.preset} {loaded.hash}",
        "classes": json.dumps(list(config.classes)),
        "inputs": json.dumps({array.name: array.meaning for array in graph.inputs}),
        "outputs": json.dumps({array.name: array.meaning for array in graph.outputs}),
    }
    return about | {name: str(provenance[name]) for name in ("author", "license") if provenance.get(name)}


def _traced(graph: Graph) -> torch.export.ExportedProgram:
    """The graph's operations, for any length of the axes that may have any.

    Given the graph itself, `torch.onnx.export` would silently make such axes constant where it has to.
    """
    sizes: dict[str, Any] = {"images": torch.export.Dim("images", min=1, max=MAX_IMAGES)}
    for name in ("height", "width"):
        parts = torch.export.Dim(f"{name}_parts", min=graph.least, max=MAX_SIDE // graph.multiple)
        sizes[name] = graph.multiple * parts if graph.multiple > 1 else parts
    dynamic = tuple({axis: sizes[name] for axis, name in array.dynamic.items()} for array in graph.inputs)
    graph(*graph.examples(range(1)))  # makes the model's tables, which would otherwise be made of the tracing's tensors
    return torch.export.export(graph.traced, graph.examples(range(EXAMPLES)), dynamic_shapes=dynamic)


def _to_onnx(graph: Graph, about: dict[str, str]) -> tuple[bytes, Run]:
    import onnxruntime

    from imggen.engine.export.onnx_models import sampler_model, to_model

    if isinstance(graph, SamplerGraph):
        model = sampler_model(graph, MAX_IMAGES)
    else:
        inputs, outputs = ([array.name for array in arrays] for arrays in (graph.inputs, graph.outputs))
        model = to_model(_traced(graph), inputs, outputs)
    for name, text in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    data: bytes = model.SerializeToString()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    names = [array.name for array in graph.inputs]
    return data, lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def _to_torch(graph: Graph, about: dict[str, str]) -> tuple[bytes, Run]:
    file = io.BytesIO()
    torch.export.save(_traced(graph), file, extra_files=about)
    data = file.getvalue()
    module = torch.export.load(io.BytesIO(data)).module()

    def run(inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        outputs = module(*map(torch.from_numpy, inputs))
        return [output.numpy() for output in ((outputs,) if isinstance(outputs, Tensor) else outputs)]

    return data, run


def compare(graph: Graph, run: Run) -> str:
    """What an exported network gives for SEEDS seeds, beside the graph itself; how far they are apart, in words.

    Raises CheckpointError if that is more than rounding.
    """
    by_image: list[int] = []  # how many values differ by more than a level
    pixels, largest = 0, 0.0
    for start in range(0, SEEDS, AT_ONCE):
        inputs = graph.examples(range(start, min(start + AT_ONCE, SEEDS)))
        expected = graph(*inputs)
        found = run([each.numpy() for each in inputs])
        for own, other in zip((expected,) if isinstance(expected, Tensor) else expected, found, strict=True):
            if own.shape != other.shape or str(own.dtype).removeprefix("torch.") != str(other.dtype):
                raise CheckpointError(
                    f"the exported network gives {other.dtype} {other.shape} in place of {tuple(own.shape)}",
                    "please report this",
                )
            difference = np.abs(own.numpy().astype(np.float64) - other)
            if own.dtype == torch.uint8:
                by_image += (difference > 1).reshape(len(difference), -1).sum(1).tolist()
                pixels += difference.size
            else:
                largest = max(largest, float(difference.max()) / max(1e-9, float(own.abs().max())))
    unequal, others = sum(by_image), sum(sorted(by_image, reverse=True)[graph.free_images :])
    if others > UNEQUAL_PIXELS * pixels or not largest <= TOLERANCE:
        raise CheckpointError(
            f"the exported network differs from the model: {unequal:,} of {pixels:,} values by more than a level, "
            f"others by {largest:.2g} of the largest",
            "please report this; another PyTorch may export it right",
        )
    parts = []
    if pixels:
        parts.append(f"{unequal:,} of {pixels:,} values differ by more than one level")
    if largest or not pixels:
        parts.append(f"floats differ by at most {largest:.1g} of the largest")
    return ", ".join(parts)
