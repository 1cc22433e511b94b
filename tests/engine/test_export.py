"""imggen export: the file alone, in another program, gives what imggen gives."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from imggen.engine.checkpoints import LoadedModel, load_model, save_backend
from imggen.engine.export import export as engine
from imggen.engine.export import run
from imggen.engine.export.graphs import GeneratorGraph, SamplerGraph, build_graph
from imggen.engine.noise import SampleSpec
from imggen.engine.options import ExportOptions
from imggen.engine.render import sample_batches
from imggen.errors import CheckpointError, UsageError
from imggen.io.pixels import float_images, to_levels
from imggen.models import build_backend, build_model, presets
from imggen.models.base import Backend, Model
from imggen.models.transformer.backend import TransformerBackend
from imggen.reporting import Silent
from tests.helpers import run_cli, small_gan
from tests.test_contract import small

NAMES = ("ants", "bees")
SMALL: dict[str, dict[str, Any]] = {
    "vae": {"width": 8, "max_width": 8, "z": 3, "depth": 0.01, "mixtures": 2, "channels": 4, "hard_alpha": True},
    "classify": {"width": 4, "classes": NAMES, "class_counts": (2, 2)},
    "segment": {"width": 4, "halvings": 1, "table": {"names": ["ground", "object"]}},
    "translate": {"width": 4, "halvings": 1, "target_channels": 1},
}


def saved(family: str, **more: Any) -> Model:
    """A small model with random weights, saved as FAMILY.safetensors."""
    torch.manual_seed(3)
    model = build_model(presets(family)["tiny"].with_overrides(size=16, **SMALL[family], **more))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    save_backend(Path(f"{family}.safetensors"), model.eval(), {"author": "Ada"}, class_temperature=2.0)
    return model


def exported(family: str, ending: str, part: str | None = None) -> Callable[..., Any]:
    """What the exported file alone makes of its inputs: a list of arrays."""
    path = Path(f"{family}.{ending}")
    run(ExportOptions(model=f"{family}.safetensors", part=part, output=str(path)), Silent())
    return opened(path)


def opened(path: Path) -> Callable[..., Any]:
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))
    module = torch.export.load(path).module()
    return lambda *inputs: [module(*map(torch.from_numpy, inputs)).numpy()]


def images(count: int, height: int, width: int, channels: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def sampled(backend: Backend, seeds: Sequence[int]) -> np.ndarray[Any, Any]:
    return np.concatenate(list(sample_batches(backend, [SampleSpec(seed) for seed in seeds])))


def test_a_generator_draws_the_samples_of_its_seeds(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    gan = small_gan(class_counts=(3, 1))
    save_backend(Path("gan.safetensors"), gan, {"license": "CC0"})
    code, out, err = run_cli(capsys, "export", "gan.safetensors", "-o", "gan.pt2", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["paths"] == ["gan.pt2"] and list(result["inputs"]) == ["noise", "label"]
    graph = build_graph(load_model("gan.safetensors", device="cpu"), None)
    noise, labels = (each.numpy() for each in graph.examples(range(5)))
    (found,) = opened(Path("gan.pt2"))(noise, labels)
    about = dict.fromkeys(("classes", "license"), "")
    torch.export.load("gan.pt2", extra_files=about)
    assert np.abs(found.astype(int) - sampled(gan, range(5))).max() <= 1 and found.std() > 10
    assert json.loads(about["classes"])[:1] == [gan.classes[0]] and about["license"] == "CC0"
    code, _, err = run_cli(capsys, "export", "gan.safetensors", "-o", "gan.pt2")
    assert code == 2 and "--force" in err


def test_a_step_of_a_transformer_is_traced_for_any_number_of_images() -> None:
    torch.manual_seed(0)
    config = small("transformer", "tiny", classes=True).with_overrides(codes=512)
    transformer = build_backend(config).eval().requires_grad_(False)
    assert isinstance(transformer, TransformerBackend)
    graph = SamplerGraph(transformer)
    noise, labels = graph.examples(range(3))
    batch = {0: torch.export.Dim("images")}
    tokens = torch.ones(3, *graph.token_shape, dtype=torch.int64)  # are not to be looked at before they are sampled
    with torch.no_grad():
        assert np.abs(graph.decode(tokens[:1]).numpy() - graph.decode(tokens).numpy()).max() == 0
        traced = torch.export.export(
            graph.step, (torch.tensor(0), tokens, noise, labels), dynamic_shapes=({}, batch, batch, batch)
        ).module()
        for index in range(graph.step.count):
            before, tokens = tokens, graph.step(torch.tensor(index), tokens, noise, labels)
            rest = graph.step.groups[0] != index
            assert torch.equal(tokens[:, rest], before[:, rest])
            assert torch.equal(traced(torch.tensor(index), before[:1], noise[:1], labels[:1]), tokens[:1])
    expected = sampled(transformer, range(3))
    assert np.abs(graph.decode(tokens).numpy().astype(int) - expected).max() <= 1 and expected.std() > 10
    assert np.abs(graph.traced(noise, labels).numpy().astype(int) - expected).max() <= 1


class Counting(nn.Module):
    """A step that sets token number `index` to a number that depends on the ones before, the noise and the label."""

    count = 3

    def forward(self, index: Tensor, tokens: Tensor, noise: Tensor, label: Tensor) -> Tensor:
        new = tokens.sum(1, keepdim=True) + (noise[:, :1, None] > 0).long() + label[:, None, None]
        return torch.where(torch.arange(4)[:, None] == index, new, tokens)


class Enlarging(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return (10 * tokens[..., None]).expand(-1, -1, -1, 3).to(torch.uint8)


def test_a_step_is_repeated_in_a_file() -> None:
    graph = SamplerGraph.__new__(SamplerGraph)
    GeneratorGraph.__init__(graph, small_gan(class_counts=(3, 1)))
    graph.step, graph.decode, graph.token_shape = Counting(), Enlarging(), (4, 2)  # type: ignore[assignment]
    with torch.no_grad():
        data, draw = engine._to_onnx(graph, {"author": "Ada"})
        batch = {0: torch.export.Dim("images")}
        loop = torch.export.export(graph.traced, graph.examples(range(3)), dynamic_shapes=(batch, batch))
        for count in (1, 7):
            inputs = graph.examples(range(count))
            expected = graph.traced(*inputs).numpy()
            (found,) = draw([each.numpy() for each in inputs])
            assert found.shape == (count, 4, 2, 3) and (found == expected).all()
            assert (loop.module()(*inputs).numpy() == expected).all()
    assert found.max() > 10 and not found[:, 3].any()
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert [each.name for each in model.graph.input] == ["noise", "label"]
    assert (
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "images"
        and model.metadata_props[0].value == "Ada"
    )


def test_networks_that_see_take_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    classifier = saved("classify")
    pixels = images(3, 16, 16)
    (found,) = exported("classify", "pt2")(pixels)
    with torch.no_grad():
        expected = (classifier.class_scores(float_images(pixels, torch.device("cpu"))) / 2.0).softmax(1)  # type: ignore[operator]
    assert found == pytest.approx(expected.numpy(), abs=1e-4)

    model = saved("vae")
    pixels = images(2, 16, 16, 4)
    (found,) = exported("vae", "pt2", "features")(pixels)
    assert found == pytest.approx(model.features(float_images(pixels, torch.device("cpu"))).vectors.numpy(), abs=1e-3)


def test_maps_of_images_take_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    segmenter, translator = saved("segment"), saved("translate", noise=3, paired=True)
    segment, translate = exported("segment", "onnx"), exported("translate", "pt2")
    about = {entry.key: entry.value for entry in onnx.load("segment.onnx").metadata_props}
    assert about["author"] == "Ada" and about["model"].startswith("segment/tiny")
    for height, width in ((16, 16), (12, 32)):
        pixels = images(2, height, width)
        with torch.no_grad():
            scores = segmenter(float_images(pixels, torch.device("cpu")))
            noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(height))
            expected = to_levels(translator(float_images(pixels, torch.device("cpu")), noise))
        mask, probability = segment(pixels)
        assert probability == pytest.approx(scores.softmax(1).numpy(), abs=1e-4)
        assert (mask == scores.argmax(1).numpy()).mean() > 0.99
        (found,) = translate(pixels, noise.numpy())
        assert np.abs(found[..., 0].astype(int) - expected[:, 0].numpy()).max() <= 1


def test_a_pretrained_backbone_takes_any_size_of_8_pixels_or_more() -> None:
    torch.manual_seed(0)
    config = presets("segment")["tiny"].with_overrides(size=18, **SMALL["segment"], features="pretrained")
    graph = build_graph(LoadedModel(build_model(config).eval(), Path("s"), "run", "0", {}), None)
    with torch.no_grad():
        traced = engine._traced(graph).module()
        for height, width in ((48, 32), (32, 80)):
            pixels = torch.from_numpy(images(2, height, width))
            assert traced(pixels)[1] == pytest.approx(graph(pixels)[1], abs=1e-4)
    assert "divisible by 4 and at least 8" in graph.inputs[0].meaning


def test_what_a_transformer_sees_is_traced_for_any_number_of_images() -> None:
    transformer = build_backend(small("transformer", "tiny")).eval()
    graph = build_graph(LoadedModel(transformer, Path("t"), "run", "0", {}), "features")
    traced = engine._traced(graph).module()
    for count in (1, 5):
        pixels = torch.from_numpy(images(count, 16, 16))
        expected = transformer.features(float_images(pixels.numpy(), torch.device("cpu"))).vectors
        assert traced(pixels) == pytest.approx(expected, abs=1e-4) and expected.std() > 0.01


def test_a_network_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    graph = build_graph(LoadedModel(saved("translate"), Path("t"), "run", "0", {}), None)
    right = graph(*graph.examples(range(engine.SEEDS)))
    with torch.no_grad():
        assert engine.compare(graph, lambda inputs: [graph(torch.from_numpy(inputs[0])).numpy()])
        with pytest.raises(CheckpointError, match="differs from the model"):
            engine.compare(graph, lambda inputs: [255 - graph(torch.from_numpy(inputs[0])).numpy()])
        with pytest.raises(CheckpointError, match="in place of"):
            engine.compare(graph, lambda inputs: [right.numpy().astype(np.float32)])
        # Of a sampler some images may be others.
        first = graph.examples(range(1))[0].numpy()

        def nearly(inputs: Sequence[Any]) -> list[Any]:
            images = graph(torch.from_numpy(inputs[0])).numpy()
            return [images ^ 255 if (inputs[0][:1] == first).all() and len(images) == engine.AT_ONCE else images]

        monkeypatch.setattr(graph, "free_images", engine.AT_ONCE)
        assert "values differ" in engine.compare(graph, nearly)
        monkeypatch.setattr(graph, "free_images", engine.AT_ONCE - 1)
        with pytest.raises(CheckpointError, match="differs from the model"):
            engine.compare(graph, nearly)


def test_what_cannot_be_exported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved("segment")
    for words, message in (
        ({"output": "m.tflite"}, "neither .onnx nor .pt2"),
        ({"output": "none/m.onnx"}, "there is no folder"),
        ({"part": "images"}, "gives masks"),
        ({"part": "everything"}, "--part must be"),
    ):
        with pytest.raises(UsageError, match=message):
            run(ExportOptions(**{"model": "segment.safetensors", **words}), Silent())
    save_backend(Path("transformer.safetensors"), build_backend(small("transformer", "classic")), {})
    with pytest.raises(UsageError, match="textbook's transformer cannot be exported"):
        run(ExportOptions(model="transformer.safetensors"), Silent())
    monkeypatch.setattr("imggen.engine.export.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="ONNX needs") as caught:
        run(ExportOptions(model="segment.safetensors"), Silent())
    assert "imggen[export]" in str(caught.value.hint) and not list(tmp_path.glob("*.onnx"))
