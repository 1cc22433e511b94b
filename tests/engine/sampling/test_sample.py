"""Every kind of output of `imggen sample`, refusals, resuming, several processes, and the settings in files."""

import io
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imggen.engine import sampling
from imggen.engine.checkpoints import save_backend
from imggen.engine.distributed import ProcessGroup
from imggen.engine.info import describe_file
from imggen.engine.options import SampleOptions
from imggen.engine.seeds import MAX_SEED
from imggen.errors import DataError, UsageError
from imggen.io.image import read_info
from imggen.models.base import Backend
from imggen.reporting import Silent
from tests.helpers import read_pixels, run_cli, small_gan


@pytest.fixture(scope="session")
def backend() -> Backend:
    """A model whose classes have names that need care as file names."""
    backend = small_gan(class_counts=(5, 90, 5))
    backend.config = backend.config.with_overrides(classes=("red fox", "owl", "../up"))
    return backend


@pytest.fixture
def model(backend: Backend) -> str:
    save_backend(Path("m.safetensors"), backend, {"command": "imggen train gan"})
    return "m.safetensors"


def sample(model: str, output: str, **more: Any) -> dict[str, Any]:
    return sampling.run(SampleOptions(model=model, output=output, device="cpu", **{"seed": 0, **more}), Silent())


def max_difference(first: np.ndarray, second: np.ndarray) -> int:
    return int(abs(first.astype(int) - second).max())


def test_grid(model: str) -> None:
    result = sample(model, "grid.png", count=10, columns=4)
    assert result["paths"] == ["grid.png"] and result["seeds"] == "0-9" and result["count"] == 10
    sheet = read_pixels("grid.png")
    assert sheet.shape == (3 * 18 + 2, 4 * 18 + 2, 3)
    assert sample(model, "one.png", count=1, seed=6)["seeds"] == "6"
    cell = sheet[2 + 18 : 18 + 18, 2 + 2 * 18 : 18 + 2 * 18]
    assert max_difference(read_pixels("one.png"), cell) <= 1


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_format_and_channel_count(ending: str, channels: int) -> None:
    save_backend(Path("m.safetensors"), small_gan(channels=channels), {})
    sample("m.safetensors", f"grid.{ending}", count=4)
    sample("m.safetensors", f"x-%d.{ending}", count=4)
    mode = {1: "L", 3: "RGB", 4: "RGB" if ending == "jpg" else "RGBA"}[channels]
    with Image.open(f"grid.{ending}") as image:
        assert image.mode == mode or (ending == "webp" and channels == 1)
    assert describe_file(Path(f"x-3.{ending}"))["seeds"] == "3"


def test_one_row_for_each_class(model: str) -> None:
    sample(model, "all.png", count=6, label="all")
    sheet = read_pixels("all.png")
    assert sheet.shape == (3 * 18 + 2, 2 * 18 + 2, 3)
    sample(model, "owl.png", count=2, label="owl")
    assert max_difference(read_pixels("owl.png"), sheet[18:38]) <= 1
    with pytest.raises(UsageError, match="no class 'owk'") as caught:
        sample(model, "x.png", label="owk")
    assert "owl" in str(caught.value.hint)


def test_folders_of_classes_stay_below_the_output(model: str) -> None:
    sample(model, "out/", count=6, label="all")
    names = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.png"))
    assert [Path(name).parts[0] for name in names] == ["002-_up"] * 2 + ["owl"] * 2 + ["red fox"] * 2
    assert describe_file(Path("out/owl/00000001.png"))["class"] == "owl"
    with pytest.raises(UsageError, match="pattern"):
        sample(model, "x-%d.png", label="all")


def test_a_model_without_classes() -> None:
    save_backend(Path("m.safetensors"), small_gan(), {})
    for label in ("owl", "all"):
        with pytest.raises(UsageError, match="no classes"):
            sample("m.safetensors", "x.png", label=label)


def test_pattern_and_seeds(model: str) -> None:
    sample(model, "new/p-%05d.png", seeds="3,8,20-21")
    assert sorted(path.name for path in Path("new").iterdir()) == [f"p-{seed:05d}.png" for seed in (3, 8, 20, 21)]
    sample(model, "folder/", seeds="8")
    assert max_difference(read_pixels("folder/00000008.png"), read_pixels("new/p-00008.png")) <= 1
    for bad in ("p-%s-%d.png", "p-%%.png", "p-%.png", "%", "p-%i.png", "p-%x.png", "p-%+d.png", "p-%5d.png"):
        with pytest.raises(UsageError):
            sample(model, bad)


def test_stdout_returns_the_bytes(model: str) -> None:
    result = sample(model, "-", count=4)
    assert result["png"].startswith(b"\x89PNG") and not result["paths"]
    assert sample(model, "-", count=2, format="webp")["png"].startswith(b"RIFF")


def test_the_format_that_was_asked_for(model: str) -> None:
    sample(model, "out/", count=2, format="jpeg")
    assert sorted(path.suffix for path in Path("out").iterdir()) == [".jpg", ".jpg"]


def test_overwriting_needs_force(model: str) -> None:
    for output in ("grid.png", "out", "p-%d.png"):
        sample(model, output, count=2)
        with pytest.raises(UsageError, match="already exists"):
            sample(model, output, count=2)
        sample(model, output, count=2, force=True)
    with pytest.raises(UsageError, match="is a file"):
        sample(model, "m.safetensors/", count=2)


def test_resuming_generates_only_what_is_missing(model: str) -> None:
    sample(model, "out", count=6)
    kept = Path("out/00000002.png")
    kept.write_bytes(b"mine")
    Path("out/00000004.png").unlink()
    result = sample(model, "out", count=8, resume=True)
    assert result["written"] == 3 and kept.read_bytes() == b"mine" and len(list(Path("out").iterdir())) == 8


def test_processes_divide_the_samples(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("start", "barrier", "stop"):  # one after another here; tests/cli/test_processes.py has real ones
        monkeypatch.setattr(ProcessGroup, name, lambda *_: None)
    monkeypatch.setattr(ProcessGroup, "sums", lambda group, values, device: values)
    for rank in range(3):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 3), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, str(value))
        result = sample(model, "out", count=10, resume=True)
        assert result["written"] == (4, 3, 3)[rank]
    assert len(list(Path("out").iterdir())) == 10
    with pytest.raises(UsageError, match="several processes"):
        sample(model, "grid.png")


@pytest.mark.parametrize("more", [{"count": 5}, {"label": "owl"}, {"label": "all", "count": 6}, {"temperature": 0.7}])
def test_the_command_in_a_file_makes_it_again(
    model: str, more: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sample(model, "first.png", **more)
    words = shlex.split(describe_file(Path("first.png"))["command"])
    assert words[0] == "imggen"
    first = Path("first.png").read_bytes()
    Path("first.png").unlink()
    assert run_cli(capsys, *words[1:], "--quiet")[0] == 0 and Path("first.png").read_bytes() == first


@pytest.mark.parametrize(
    ("output", "more", "name"),
    [
        ("it's all/", {"seed": 7, "count": 2, "temperature": 0.7}, "00000008.png"),
        ("out/", {"label": "all", "count": 3, "format": "webp"}, "002-_up/00000000.webp"),
        ("x-%03d.jpg", {"label": "red fox", "seeds": "5,9", "columns": 2}, "x-009.jpg"),
    ],
)
def test_the_command_in_one_of_many_files_makes_it_again(
    model: str, output: str, more: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sample(model, output, **more)
    path = Path(output, name) if output.endswith("/") else Path(name)
    described, first = read_info(path), path.read_bytes()
    assert described is not None
    path.unlink()
    assert run_cli(capsys, *shlex.split(described["command"])[1:], "--quiet")[0] == 0
    assert read_info(Path(path.name)) == described
    assert described.get("class") == {"out/": "../up", "x-%03d.jpg": "red fox"}.get(output)
    # In another batch a pixel may be rounded otherwise
    with Image.open(path.name) as image, Image.open(io.BytesIO(first)) as before:
        assert max_difference(np.array(image), np.array(before)) <= (3 if path.suffix == ".jpg" else 1)


def test_a_file_of_a_folder_has_the_bytes_that_its_command_makes(model: str) -> None:
    sample(model, "out/", seed=3, count=1)
    sample(model, "00000003.png", seed=3, count=1)
    assert Path("out/00000003.png").read_bytes() == Path("00000003.png").read_bytes()


def test_a_full_disk(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_disk_full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imggen.io.atomic.os.write", raise_disk_full)
    for output in ("grid.png", "out/"):
        with pytest.raises(DataError, match="No space"):
            sample(model, output, count=300)
    assert not Path("grid.png").exists() and not list(Path("out").iterdir())


def test_values_that_are_too_large(model: str) -> None:
    with pytest.raises(UsageError, match="too large"):
        sample(model, "grid.png", count=1000, columns=1000)
    sample(model, "grid.png", count=2, columns=1000)
    with pytest.raises(UsageError, match="too large"):
        sample(model, "x.png", seed=MAX_SEED, count=2)
    with pytest.raises(UsageError, match="too long"):
        sample(model, "x.png", seeds="0-9223372036854775807")
    with pytest.raises(UsageError, match="temperature"):
        sample(model, "x.png", temperature=3.0)


def test_outputs_that_cannot_be_written(model: str) -> None:
    for output in ("m.safetensors/a/b/", "m.safetensors/x.png", "m.safetensors/%d.png"):
        with pytest.raises(DataError, match="is a file"):
            sample(model, output, count=2)


def test_a_dry_run_writes_nothing(model: str) -> None:
    plan = sampling.dry_run(SampleOptions(model=model, output="out/", count=10**6), Silent())
    assert plan["count"] == 10**6 and plan["kind"] == "folder" and not Path("out").exists()
    with pytest.raises(UsageError, match="--count must be at least 1"):
        SampleOptions(model=model, output="out/", count=0)


def test_refusals_come_before_the_model_is_opened() -> None:
    for options in (
        SampleOptions(model="none", output="x.bmp"),
        SampleOptions(model="none", output="out/", source=Path()),
        SampleOptions(model="none", output="x.png", near=Path("none.png")),
    ):
        with pytest.raises((UsageError, DataError)) as caught:
            sampling.run(options, Silent())
        assert "none" not in str(caught.value) or "none.png" in str(caught.value)


def test_classes_without_images_are_left_out_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    save_backend(Path("m.safetensors"), small_gan(class_counts=(5, 0, 5)), {})
    words = ("sample", "m.safetensors", "-n", 4, "--seed", 0, "--device", "cpu", "--quiet")
    code, _, err = run_cli(capsys, *words, "--class", "all", "-o", "rows.png")
    assert code == 0 and "no image of them: bee" in err
    assert read_pixels("rows.png").shape == (2 * 18 + 2, 2 * 18 + 2, 3)
    code, _, err = run_cli(capsys, *words, "--class", "bee", "-o", "bee.png")
    assert code == 2 and "no image of" in err and "ant, owl" in err and not Path("bee.png").exists()


def test_the_largest_seeds_are_not_generated_again(model: str) -> None:
    for written in (1, 0):
        assert sample(model, "out", seeds=str(MAX_SEED), resume=True)["written"] == written
    Path("out/99999999999999999999.png").write_bytes(b"mine")
    assert sample(model, "out", seeds=str(MAX_SEED), resume=True)["written"] == 0


def test_few_colors(model: str) -> None:
    sample(model, "few/", count=3, label="owl", colors=5)
    sample(model, "all/", count=3, label="owl")
    for seed in range(3):
        name = f"{seed:08d}.png"
        with Image.open(f"few/{name}") as image:
            assert image.mode == "P"
        few, full = (np.asarray(Image.open(f"{folder}/{name}").convert("RGB")) for folder in ("few", "all"))
        assert len(np.unique(few.reshape(-1, 3), axis=0)) <= 5 < len(np.unique(full.reshape(-1, 3), axis=0))
        assert "--colors 5" in str(read_info(Path(f"few/{name}")))
    sample(model, "grid.png", count=3, label="owl", colors=5)
    first = np.asarray(Image.open("few/00000000.png").convert("RGB"))
    assert np.array_equal(read_pixels("grid.png")[2:18, 2:18], first)
    for refused in (
        {"output": "x.jpg"},
        {"output": "x/", "format": "jpeg"},
        {"output": "x.png", "near": Path("grid.png")},
    ):
        with pytest.raises(UsageError, match=r"--colors|JPEG"):
            sample(model, **{"colors": 5, **refused})
