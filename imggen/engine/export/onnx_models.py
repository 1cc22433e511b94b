"""Traced operations as ONNX models, and one that repeats a step: a transformer's sampler."""

from __future__ import annotations

import copy

import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, compose, helper

from imggen.engine.export.graphs import BATCH, SamplerGraph

STEP, DECODER = "step/", "decode/"  # what the names of the parts' nodes begin with
EXAMPLES = 3


def to_model(program: torch.export.ExportedProgram, inputs: list[str], outputs: list[str]) -> ModelProto:
    """Traced operations as an ONNX model with these names of inputs and outputs."""
    exported = torch.onnx.export(program, dynamo=True, input_names=inputs, output_names=outputs, verbose=False)
    assert exported is not None
    model: ModelProto = exported.model_proto
    return model


def sampler_model(graph: SamplerGraph, max_images: int) -> ModelProto:
    """A model of a loop over the steps, then the decoder; the weights are in it once."""
    images = torch.export.Dim("images", min=1, max=max_images)
    batch = {0: images}
    given = graph.examples(range(EXAMPLES))
    names = [array.name for array in graph.inputs]
    tokens = torch.zeros(EXAMPLES, *graph.token_shape, dtype=torch.int64)
    graph.decode(tokens)  # makes the quantizer's table, which would otherwise be made of a tensor of the tracing

    step = torch.export.export(
        graph.step, (torch.tensor(0), tokens, *given), dynamic_shapes=({}, batch, *(batch for _ in given))
    )
    step_model = to_model(step, ["iteration", "tokens", *names], ["sampled"])
    decode = torch.export.export(graph.decode, (tokens,), dynamic_shapes=(batch,))
    decode_model = to_model(decode, ["all_tokens"], ["image"])
    assert not step_model.functions and not decode_model.functions

    decoder, step_graph = _prefixed(decode_model.graph, DECODER), _prefixed(step_model.graph, STEP)
    opset = helper.make_opsetid("", step_model.opset_import[0].version)
    nodes = [*_loop(graph, step_graph, names), *decoder.node]
    inputs = [each for each in step_graph.input if each.name in names]
    whole = helper.make_graph(nodes, "sampler", inputs, list(decoder.output), list(decoder.initializer))
    return helper.make_model(whole, opset_imports=[opset], ir_version=step_model.ir_version)


def _prefixed(graph: GraphProto, prefix: str) -> GraphProto:
    """A copy whose names, but for those of inputs and outputs, begin with `prefix`; without shapes in between."""
    graph = copy.deepcopy(graph)
    del graph.value_info[:]
    for each in (*graph.input, *graph.output):  # the tracing's names of the axis differ
        for size in each.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = BATCH[0]
    return compose.add_prefix_graph(graph, prefix, rename_inputs=False, rename_outputs=False)


def _loop(graph: SamplerGraph, step: GraphProto, names: list[str]) -> list[NodeProto]:
    """Nodes that begin with tokens of 0 and repeat `step`, whose other inputs are those of the whole model."""
    inputs = {each.name: each for each in step.input}
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    more = helper.make_tensor_value_info("more", TensorProto.BOOL, [])
    body = helper.make_graph(
        [*step.node, helper.make_node("Identity", ["condition"], ["more"])],
        "body",
        [inputs["iteration"], condition, inputs["tokens"]],
        [more, *step.output],
        list(step.initializer),
    )

    def constant(name: str, kind: int, values: list[int], shape: list[int]) -> NodeProto:
        return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, shape, values))

    return [
        constant("steps", TensorProto.INT64, [graph.step.count], []),
        constant("always", TensorProto.BOOL, [1], []),
        constant("token_shape", TensorProto.INT64, list(graph.token_shape), [len(graph.token_shape)]),
        helper.make_node("Shape", [names[0]], ["num_images"], start=0, end=1),
        helper.make_node("Concat", ["num_images", "token_shape"], ["shape"], axis=0),
        helper.make_node(
            "ConstantOfShape", ["shape"], ["no_tokens"], value=helper.make_tensor("zero", TensorProto.INT64, [1], [0])
        ),
        helper.make_node("Loop", ["steps", "always", "no_tokens"], ["all_tokens"], body=body),
    ]
