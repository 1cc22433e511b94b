"""What a run is about to do: its model, its batch and its data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from imggen.engine import training
from imggen.engine.checkpoints import load_backend
from imggen.engine.distributed import ProcessGroup
from imggen.engine.options import TrainOptions
from imggen.engine.training.plan import make_plan
from imggen.errors import UsageError
from imggen.models import presets
from imggen.models.transformer.config import TransformerConfig
from imggen.reporting import Silent
from tests.helpers import RecordingReporter

MakeOptions = Callable[..., TrainOptions]
pytestmark = pytest.mark.usefixtures("few_pairs")


def test_a_batch_is_divided_among_processes(
    image_folder: Path, options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(options(image_folder, "run"), Silent())
    two = replace(plan.machine, processes=ProcessGroup(size=2))
    assert replace(plan, machine=two).batch == 16
    for batch, message, hint in ((3, "size 3 is too small", "--batch 4"), (5, "5 is not divisible by 2", "--batch 6")):
        with pytest.raises(UsageError, match=message) as caught:
            replace(plan, machine=two, batch=batch)
        assert hint in str(caught.value.hint)
    assert two.default_batch(plan.config, 7) == 6 and two.default_batch(plan.config, 10_000) == 32


def test_previews_of_a_run_are_not_taken_as_data(image_folder: Path, options: MakeOptions) -> None:
    training.run(options(image_folder, "imgs/run"), Silent())
    assert training.dry_run(options(image_folder, "other"), Silent())["size"] == 16
    plan = make_plan(options(image_folder, "other"), Silent())
    assert len(plan.dataset) == 120 and plan.config.classes == ("disc", "square")


def test_a_plan_decodes_nothing(image_folder: Path, options: MakeOptions) -> None:
    training.dry_run(options(image_folder, "run"), Silent())
    assert [path.name for path in Path("cache").iterdir()] == ["surveys"] and not Path("run").exists()
    with pytest.raises(TypeError):
        _ = make_plan(options(image_folder, "run"), Silent(), decode=False).dataset


def test_size_and_channels_are_those_of_the_data(image_folder: Path) -> None:
    plan = make_plan(TrainOptions(family="gan", data=str(image_folder), device="cpu"), Silent())
    assert (plan.config.size, plan.config.channels, plan.config.preset) == (16, 3, "tiny")
    assert plan.batch == 32 and plan.budget.seconds == 1800
    textbook = TrainOptions(family="gan", data=str(image_folder), device="cpu", preset="dcgan")
    assert make_plan(textbook, Silent()).batch == 64


def test_what_is_chosen_is_said_with_its_reason(options: MakeOptions) -> None:
    Path("icons").mkdir()
    for number in range(8):
        image = Image.new("RGBA", (16, 16), (number, 0, 0, 255))
        image.putpixel((3, number), (0, 0, 0, 0))
        image.save(f"icons/{number}.png")
    reporter = RecordingReporter()
    chosen = TrainOptions(family="gan", data="icons", output=Path("run"), device="cpu", images=16)
    training.run(replace(chosen, overrides={"width": 4, "max_width": 4}), reporter)
    lines = [line for line in reporter.infos if line.startswith("chosen")]
    assert [line.split(":")[0].split()[1] for line in lines] == ["size", "channels", "hard", "preset", "batch"]
    assert lines[-1] == "chosen  batch 8: there are no more images"
    config = load_backend(Path("run"), device="cpu").backend.config
    assert config.hard_alpha and (config.size, config.channels) == (16, 4)


def test_a_small_data_set_has_dropout_unless_it_is_set(image_folder: Path) -> None:
    default = TrainOptions(family="transformer", data=str(image_folder), device="cpu", preset="tiny", size=16)
    assert make_plan(default, Silent()).config.to_json()["dropout"] > 0
    without = replace(default, overrides={"dropout": 0.0})
    assert make_plan(without, Silent()).config.to_json()["dropout"] == 0
    tiny = presets("transformer")["tiny"]
    assert not tiny.for_dataset_size(1_000_000)


def test_a_dry_run_says_what_was_chosen_and_why(image_folder: Path) -> None:
    reporter = RecordingReporter()
    plain = TrainOptions(family="transformer", data=str(image_folder), output=Path("run"), device="cpu")
    training.dry_run(plain, reporter)
    assert [line for line in reporter.infos if line.startswith("chosen")][-4:] == [
        "chosen  dropout 0.1: suits a data set of 120 images",
        "chosen  preset tiny: the default on a CPU",
        "chosen  batch 32: transformer/tiny learns fastest with it on a CPU, at 16 pixels",
        "chosen  30 minutes: the default on a CPU",
    ]
    given = replace(plain, preset="tiny", batch=4, images=16, size=16, channels=3, overrides={"dropout": 0.0})
    said = RecordingReporter()
    training.dry_run(given, said)
    assert not any(line.startswith("chosen") for line in said.infos)


def test_large_images_get_few_tokens_of_many_codes_unless_one_is_set(image_folder: Path) -> None:
    default = TrainOptions(family="transformer", data=str(image_folder), device="cpu", preset="tiny", size=64)
    plan = make_plan(default, Silent())
    assert isinstance(plan.config, TransformerConfig) and (plan.config.side, plan.config.codes) == (8, 262144)
    assert any(choice.startswith("factor 8, codes 262144") for choice in plan.choices)
    other = make_plan(replace(default, overrides={"codes": 15360}), Silent())
    assert isinstance(other.config, TransformerConfig) and (other.config.side, other.config.codes) == (16, 15360)
    assert not any(choice.startswith("factor") for choice in other.choices)
    small = make_plan(replace(default, size=32), Silent()).config
    assert isinstance(small, TransformerConfig) and (small.side, small.codes) == (8, 0)
