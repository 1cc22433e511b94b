"""Drawing: the same picture for a seed whatever surrounds it, every kind of output, memory, settings in files."""

import shlex
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from imggen.cli.app import main
from imggen.engine import render as drawing
from imggen.engine.checkpoints import load_backend, save_backend
from imggen.engine.distributed import ProcessGroup
from imggen.engine.info import describe_file
from imggen.engine.noise import SampleSpec
from imggen.engine.options import SampleOptions
from imggen.engine.render import sample_batches
from imggen.engine.sampling.sample import plan, sample
from imggen.engine.seeds import MAX_SEED
from imggen.errors import CheckpointError, DataError, DeviceError, UsageError
from imggen.io.image import ImageArray
from imggen.models import build_backend, presets
from imggen.models.base import Backend
from imggen.models.gan.backend import GanBackend as GanBackend
from imggen.reporting import Silent

CLASSES = ("red fox", "owl", "../up")


def fresh(*, classes: bool = True, channels: int = 3) -> Backend:
    torch.manual_seed(3)
    backend = build_backend(
        presets("gan")["tiny"].with_overrides(
            size=16,
            channels=channels,
            width=8,
            max_width=16,
            classes=CLASSES if classes else (),
            class_counts=(5, 90, 5) if classes else (),
        )
    )
    with torch.no_grad():  # a new network draws grey: larger weights make pictures that differ
        for parameter in backend.parameters():
            parameter.mul_(12)
    return backend.eval().requires_grad_(False)


@pytest.fixture
def model(tmp_path: Path) -> str:
    save_backend(tmp_path / "m.safetensors", fresh(), {"command": "imggen train gan"})
    return str(tmp_path / "m.safetensors")


def options(model: str, output: str, **more: Any) -> SampleOptions:
    return SampleOptions(model=model, output=output, **{"seed": 0, **more})


def pixels(path: Path | str) -> ImageArray:
    with Image.open(path) as image:
        return np.asarray(image)


def pictures_of(backend: Backend, items: list[SampleSpec], **more: Any) -> ImageArray:
    return np.concatenate(list(sample_batches(backend, items, lambda _, pictures: pictures, **more)))


@pytest.mark.parametrize("classes", [True, False])
def test_a_picture_depends_on_its_seed_alone(classes: bool) -> None:
    backend = fresh(classes=classes)
    items = [SampleSpec(seed) for seed in range(50)]
    whole = pictures_of(backend, items)
    assert len({picture.tobytes() for picture in whole}) == 50
    for batch in (1, 3, 7, 64):
        part = pictures_of(backend, items[11:40], batch=batch)
        assert abs(part.astype(int) - whole[11:40]).max() <= 1
    fused = pictures_of(backend.for_inference(), items)
    assert abs(fused.astype(int) - whole).max() <= 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert abs(pictures_of(backend, items).astype(int) - whole).max() <= 1
    finally:
        torch.set_num_threads(threads)


def test_drawing_gives_threads_back() -> None:
    before = torch.get_num_threads()
    pictures_of(fresh(), [SampleSpec(seed) for seed in range(40)], batch=4)
    assert torch.get_num_threads() == before


def test_classes_come_as_often_as_the_data_has_them() -> None:
    _, labels = drawing.noise_of([SampleSpec(seed) for seed in range(2000)], fresh())
    assert labels is not None
    shares = torch.bincount(labels, minlength=3) / 2000
    assert 0.86 < shares[1] < 0.94 and shares[0] > 0.02 and shares[2] > 0.02
    _, chosen = drawing.noise_of([SampleSpec(5, 2), SampleSpec(6)], fresh())
    assert chosen is not None and chosen[0] == 2 and chosen[1] == labels[6]


def test_noise_is_standard_normal() -> None:
    noise, _ = drawing.noise_of([SampleSpec(seed) for seed in range(2000)], fresh())
    assert noise.mean().abs() < 0.01 and (noise.std() - 1).abs() < 0.01
    neighbours = (noise[1:] * noise[:-1]).mean(1)
    assert neighbours.abs().max() < 0.6 and neighbours.mean().abs() < 0.01


def test_temperature_tames(model: str) -> None:
    backend = fresh(classes=False)
    items = [SampleSpec(seed) for seed in range(30)]
    spread = [pictures_of(backend, items, temperature=t).std(axis=0).mean() for t in (0.0, 0.5, 1.0)]
    assert spread[0] == 0 < spread[1] < spread[2]
    with pytest.raises(UsageError, match="temperature"):
        sample(options(model, "x.png", temperature=3.0), Silent())


def test_memory_that_is_too_small_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    generate, largest, told = GanBackend.generate, 5, list[int]()

    def little(self: GanBackend, noise: Tensor, *arguments: Any, **more: Any) -> Tensor:
        if len(noise) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, noise, *arguments, **more)

    items = [SampleSpec(seed) for seed in range(40)]
    whole = pictures_of(fresh(), items)
    monkeypatch.setattr(GanBackend, "generate", little)
    assert abs(pictures_of(fresh(), items, batch=16, on_smaller=told.append).astype(int) - whole).max() <= 1
    assert told and min(told) == 4
    largest = 0
    with pytest.raises(DeviceError, match="memory"):
        pictures_of(fresh(), items)


def test_errors_of_the_model_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(GanBackend, "generate", broken)
    with pytest.raises(RuntimeError, match="shape"):
        pictures_of(fresh(), [SampleSpec(seed) for seed in range(40)])


def test_drawing_is_lazy_and_bounded() -> None:
    """Only as many batches are asked for as can be worked on: a million pictures never stand in memory."""
    taken = 0

    def items() -> Iterator[SampleSpec]:
        nonlocal taken
        for seed in range(100_000):
            taken += 1
            yield SampleSpec(seed)

    drawn = sample_batches(fresh(), items(), lambda part, _: len(part), batch=4)
    for _ in range(5):
        assert next(drawn) == 4
    assert isinstance(drawn, Generator)
    drawn.close()
    assert taken <= 4 * (6 + 3 * torch.get_num_threads())


def test_grid(model: str) -> None:
    result = sample(options(model, "grid.png", count=10, columns=4), Silent())
    assert result["paths"] == ["grid.png"] and result["seeds"] == "0-9" and result["count"] == 10
    sheet = pixels("grid.png")
    assert sheet.shape == (3 * 18 + 2, 4 * 18 + 2, 3)
    one = sample(options(model, "one.png", count=1, seed=6), Silent())
    assert one["seeds"] == "6"
    place = sheet[2 + 18 : 18 + 18, 2 + 2 * 18 : 18 + 2 * 18]
    assert abs(pixels("one.png").astype(int) - place).max() <= 1


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_format_and_channel_count(tmp_path: Path, ending: str, channels: int) -> None:
    save_backend(tmp_path / "m.safetensors", fresh(channels=channels), {})
    sample(options("m.safetensors", f"grid.{ending}", count=4), Silent())
    sample(options("m.safetensors", f"x-%d.{ending}", count=4), Silent())
    mode = {1: "L", 3: "RGB", 4: "RGB" if ending == "jpg" else "RGBA"}[channels]
    with Image.open(f"grid.{ending}") as image:
        assert image.mode == mode or (ending == "webp" and channels == 1)
    assert describe_file(Path(f"x-3.{ending}"))["seeds"] == "3"


def test_class_rows(model: str) -> None:
    sample(options(model, "all.png", count=6, label="all"), Silent())
    sheet = pixels("all.png")
    assert sheet.shape == (3 * 18 + 2, 2 * 18 + 2, 3)
    sample(options(model, "owl.png", count=2, label="owl"), Silent())
    assert abs(pixels("owl.png").astype(int) - sheet[18:38]).max() <= 1
    with pytest.raises(UsageError, match="no class 'owk'") as caught:
        sample(options(model, "x.png", label="owk"), Silent())
    assert "owl" in str(caught.value.hint)


def test_classes_in_folders_stay_below_the_folder(model: str) -> None:
    sample(options(model, "out/", count=6, label="all"), Silent())
    names = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.png"))
    assert [Path(name).parts[0] for name in names] == ["002-_up"] * 2 + ["owl"] * 2 + ["red fox"] * 2
    assert describe_file(Path("out/owl/00000001.png"))["class"] == "owl"
    with pytest.raises(UsageError, match="pattern"):
        sample(options(model, "x-%d.png", label="all"), Silent())


def test_a_model_without_classes_says_so(tmp_path: Path) -> None:
    save_backend(tmp_path / "m.safetensors", fresh(classes=False), {})
    for label in ("owl", "all"):
        with pytest.raises(UsageError, match="no classes"):
            sample(options("m.safetensors", "x.png", label=label), Silent())


def test_pattern_and_seeds(model: str) -> None:
    sample(options(model, "new/p-%05d.png", seeds="3,8,20-21"), Silent())
    assert sorted(path.name for path in Path("new").iterdir()) == [f"p-{seed:05d}.png" for seed in (3, 8, 20, 21)]
    sample(options(model, "folder/", seeds="8"), Silent())
    assert abs(pixels("folder/00000008.png").astype(int) - pixels("new/p-00008.png")).max() <= 1
    for bad in ("p-%s-%d.png", "p-%%.png", "p-%.png", "%", "p-%i.png", "p-%x.png", "p-%+d.png", "p-%5d.png"):
        with pytest.raises(UsageError):
            sample(options(model, bad), Silent())


def test_stdout_gives_the_bytes(model: str) -> None:
    result = sample(options(model, "-", count=4), Silent())
    assert result["png"].startswith(b"\x89PNG") and not result["paths"]


def test_nothing_is_overwritten_unasked(model: str) -> None:
    for output in ("grid.png", "out", "p-%d.png"):
        sample(options(model, output, count=2), Silent())
        with pytest.raises(UsageError, match="already exists"):
            sample(options(model, output, count=2), Silent())
        sample(options(model, output, count=2, force=True), Silent())
    with pytest.raises(UsageError, match="is a file"):
        sample(options(model, "m.safetensors/", count=2), Silent())


def test_resume_draws_only_what_is_missing(model: str) -> None:
    sample(options(model, "out", count=6), Silent())
    kept = Path("out/00000002.png")
    kept.write_bytes(b"mine")
    Path("out/00000004.png").unlink()
    result = sample(options(model, "out", count=8, resume=True), Silent())
    assert result["written"] == 3 and kept.read_bytes() == b"mine" and len(list(Path("out").iterdir())) == 8


def test_processes_share_the_work(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("start", "wait", "stop"):  # one after another here; test_processes has real ones
        monkeypatch.setattr(ProcessGroup, name, lambda *_: None)
    for rank in range(3):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 3), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, str(value))
        result = sample(options(model, "out", count=10, resume=True), Silent())
        assert result["written"] == (4, 3, 3)[rank]
    assert len(list(Path("out").iterdir())) == 10


@pytest.mark.parametrize("more", [{"count": 5}, {"label": "owl"}, {"label": "all", "count": 6}, {"temperature": 0.7}])
def test_the_command_of_a_file_draws_it_again(model: str, more: dict[str, Any]) -> None:
    sample(options(model, "first.png", **more), Silent())
    command = shlex.split(describe_file(Path("first.png"))["command"])
    assert command[0] == "imggen"
    first = Path("first.png").read_bytes()
    Path("first.png").unlink()
    with pytest.raises(SystemExit) as caught:
        main([*command[1:], "--quiet"])
    assert not caught.value.code and Path("first.png").read_bytes() == first


def test_a_disk_that_refuses(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imggen.io.atomic.os.write", full)
    for output in ("grid.png", "out/"):
        with pytest.raises(DataError, match="No space"):
            sample(options(model, output, count=300), Silent())
    assert not Path("grid.png").exists() and not list(Path("out").iterdir())


def test_too_large_a_grid(model: str) -> None:
    with pytest.raises(UsageError, match="too large"):
        sample(options(model, "grid.png", count=1000, columns=1000), Silent())
    sample(options(model, "grid.png", count=2, columns=1000), Silent())
    with pytest.raises(UsageError, match="too large"):
        sample(options(model, "x.png", seed=MAX_SEED, count=2), Silent())
    with pytest.raises(UsageError, match="too long"):
        sample(options(model, "x.png", seeds="0-9223372036854775807"), Silent())


def test_places_that_cannot_be_written_to(model: str) -> None:
    for output in ("m.safetensors/a/b/", "m.safetensors/x.png", "m.safetensors/%d.png"):
        with pytest.raises(DataError, match="is a file"):
            sample(options(model, output, count=2), Silent())


def test_the_format_asked_for(model: str) -> None:
    assert sample(options(model, "-", count=2, format="webp"), Silent())["png"].startswith(b"RIFF")
    sample(options(model, "out/", count=2, format="jpeg"), Silent())
    assert sorted(path.suffix for path in Path("out").iterdir()) == [".jpg", ".jpg"]


def test_plan(model: str) -> None:
    found = plan(options(model, "out/", count=10**6), Silent())
    assert found["count"] == 10**6 and found["kind"] == "folder" and not Path("out").exists()
    with pytest.raises(UsageError, match="no pictures"):
        plan(options(model, "out/", count=0), Silent())


def test_loading_by_name_prefers_the_own_run(tmp_path: Path) -> None:
    shipped = load_backend("gan", device="cpu")
    assert shipped.origin == "shipped" and shipped.backend.classes == tuple("0123456789")
    Path("runs/gan").mkdir(parents=True)
    save_backend(Path("runs/gan/weights.safetensors"), fresh(), {})
    assert load_backend("gan", device="cpu").origin == "your run runs/gan"
    assert load_backend("gan", weights=shipped.path, device="cpu").hash == shipped.hash
    with pytest.raises(CheckpointError) as caught:
        load_backend("gna")
    assert "gan" in str(caught.value.hint)
    with pytest.raises(DeviceError):
        load_backend("gan", device="tpu")
