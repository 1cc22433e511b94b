"""What a run says about its data, and refuses of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from imggen.data.scan import open_source
from imggen.engine import training
from imggen.engine.training.plan import make_plan
from imggen.engine.training.run_data import describe_classes, refuse_other_data
from imggen.errors import CheckpointError
from imggen.reporting import Silent
from tests.data.helpers import write_images
from tests.engine.training.conftest import MakeOptions
from tests.helpers import RecordingReporter


def test_the_first_class_names_are_shown(image_folder: Path, options: MakeOptions) -> None:
    assert describe_classes(()) == "no classes"
    assert describe_classes(("a", "b")) == "2 classes: a, b"
    many = describe_classes(tuple(map(str, range(100))))
    assert many.startswith("100 classes: 0, 1, 2") and many.endswith("11, …")
    assert training.dry_run(options(image_folder, "run"), Silent())["classes"] == "2 classes: disc, square"


def test_classes_without_training_images_are_named(options: MakeOptions) -> None:
    write_images(Path("d"), 40)
    (Path("d/empty")).mkdir()
    (Path("d/empty/x.png")).write_bytes(b"")
    reporter = RecordingReporter()
    plan = make_plan(options(Path("d"), "run"), reporter)
    assert plan.config.class_counts == (20, 20, 0)
    assert "no training images of: empty" in reporter.warnings


@pytest.mark.parametrize(("count", "said"), [(20, 0), (19, 1)])
def test_a_generator_warns_of_too_few_images(options: MakeOptions, count: int, said: int) -> None:
    write_images(Path("d"), count)
    reporter = RecordingReporter()
    training.dry_run(options(Path("d"), "run"), reporter)
    assert sum(f"with {count} images" in line for line in reporter.warnings) == said


def test_classes_of_other_splits_only_are_named(options: MakeOptions) -> None:
    write_images(Path("d/train"), 40)
    write_images(Path("d/test"), 4)
    Path("d/test/a").rename("d/test/only-there")
    reporter = RecordingReporter()
    training.dry_run(options(Path("d"), "run"), reporter)
    assert reporter.warnings == ["no training images of: only-there"]


@pytest.mark.slow
def test_a_run_without_classes_goes_on_without(options: MakeOptions, few_pairs: None) -> None:
    write_images(Path("d/x"), 40)
    for path in sorted(Path("d/x").glob("*/*.png")):
        path.rename(Path("d") / path.name)
    training.run(options(Path("d"), "run"), Silent())
    for path in sorted(Path("d").glob("*.png")):
        folder = Path("d") / "ab"[int(path.stem) % 2]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    assert open_source("d", cache_dir=Path("cache")).classes == ("a", "b")
    resumed = options(Path("d"), "run", resume=True, images=208)
    for use_classes in (True, False):
        reporter = RecordingReporter()
        plan = make_plan(replace(resumed, use_classes=use_classes), reporter)
        assert plan.config.classes == () and set(plan.dataset.labels) == {0}
        assert "started without classes and goes on without: 2 classes: a, b" in " ".join(reporter.warnings)
    assert training.run(resumed, Silent())["images"] == 208


def test_other_data_is_refused(image_folder: Path, options: MakeOptions) -> None:
    config = make_plan(options(image_folder, "run"), Silent(), decode=False).config
    for path in sorted(image_folder.rglob("*.png")):
        path.rename(image_folder / f"{path.parent.name}-{path.name}")
    flat = make_plan(options(image_folder, "run"), Silent(), decode=False).source
    with pytest.raises(CheckpointError, match="2 classes: disc, square; the data now has no classes"):
        refuse_other_data(config, flat)
    with pytest.raises(CheckpointError, match="size 32, and the data now has 16"):
        refuse_other_data(config.with_overrides(size=32), flat)


def test_the_run_inside_its_data_is_not_read(image_folder: Path, options: MakeOptions) -> None:
    inside = image_folder / "disc" / "run" / "x"
    write_images(inside)
    assert len(make_plan(options(image_folder, str(inside.parent)), Silent(), decode=False).source) == 120
    assert len(make_plan(options(image_folder, "elsewhere"), Silent(), decode=False).source) == 126
