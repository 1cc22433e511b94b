"""How a run reads its targets: what a resumed run takes over of its masks, and which options it refuses."""

from pathlib import Path
from typing import Any

import pytest

from imggen.data.masks import MaskTable
from imggen.engine import training
from imggen.engine.options import TrainSegmentOptions, TrainTranslateOptions
from imggen.engine.training.targets import refuse_other_targets, targets_of
from imggen.errors import UsageError
from imggen.models import presets
from imggen.models.config import ModelConfig
from imggen.reporting import Silent
from tests.data.helpers import write_images

GRAY = MaskTable(False, (0, 1), ("ground", "tree"), void=255)
COLORS = MaskTable(True, (0, 0x10FF00), ("ground", "tree"), void=0xE0E0C0)
PLAIN = MaskTable(False, (0, 1), ("ground", "tree"), lossy=True)


def config_of(table: MaskTable) -> ModelConfig:
    return presets("segment")["tiny"].with_overrides(table=table.to_json())


def segment(**given: Any) -> TrainSegmentOptions:
    return TrainSegmentOptions(family="segment", data="imgs", masks="masks", resume=True, **given)


@pytest.mark.parametrize(
    ("table", "given"),
    [
        (GRAY, {}),
        (GRAY, {"void": "255"}),
        (COLORS, {"void": "#e0e0c0"}),
        (PLAIN, {"void": "none"}),
        (PLAIN, {"lossy_masks": True}),
        (GRAY, {"mask_classes": "ground, tree"}),
        (GRAY, {"resize_masks": True}),
    ],
)
def test_a_resumed_run_takes_over_how_masks_are_read(table: MaskTable, given: dict[str, Any]) -> None:
    options, config = segment(**given), config_of(table)
    refuse_other_targets(options, config)
    targets = targets_of(options, config)
    assert targets is not None and targets.table == table
    assert (targets.void, targets.lossy) == ({GRAY: "255", COLORS: "#e0e0c0", PLAIN: "none"}[table], table.lossy)
    assert targets.names in ("ground,tree", "ground, tree") and targets.resize == bool(given.get("resize_masks"))


@pytest.mark.parametrize(
    ("table", "given", "message"),
    [
        (GRAY, {"void": "none"}, "void 255, not none"),
        (GRAY, {"void": "1"}, "void 255, not 1"),
        (COLORS, {"void": "#000001"}, "void #e0e0c0, not #000001"),
        (PLAIN, {"void": "sky"}, "void none, not sky"),
        (GRAY, {"lossy_masks": True}, "lossy_masks False, not True"),
        (GRAY, {"mask_classes": "ground,bush"}, "class 1 called tree, not bush"),
        (GRAY, {"mask_classes": "names.txt"}, "class 0 called ground, not tree"),
        (GRAY, {"mask_classes": "a,b,c"}, "masks of 2 classes: ground, tree, not 3 classes: a, b, c"),
    ],
)
def test_a_resumed_run_refuses_to_read_masks_otherwise(
    table: MaskTable, given: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("tree\nground\n")
    with pytest.raises(UsageError) as caught:
        refuse_other_targets(segment(**given), config_of(table))
    assert caught.value.message == f"this run was started with {message}"


def test_a_named_data_set_has_no_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = TrainSegmentOptions(family="segment", data="mnist", masks="masks")
    with pytest.raises(UsageError, match="mnist has no masks"):
        targets_of(options)
    Path("mnist").mkdir()
    assert targets_of(options) is not None


def test_names_of_classes_may_be_composed_otherwise() -> None:
    config = config_of(GRAY._replace(names=("ground", "caf\u00e9")))
    refuse_other_targets(segment(mask_classes="ground,cafe\u0301"), config)
    with pytest.raises(UsageError, match="class 1 called"):
        refuse_other_targets(segment(mask_classes="ground,cafe"), config)


def test_names_that_only_a_file_can_give_are_not_joined() -> None:
    targets = targets_of(segment(), config_of(GRAY._replace(names=("ground", "tree, bush"))))
    assert targets is not None and targets.names is None


def test_a_resumed_translation_refuses_other_channels() -> None:
    config = presets("translate")["tiny"].with_overrides(target_channels=1)
    for channels in (None, 1, 3):
        options = TrainTranslateOptions(family="translate", data="a", to="b", to_channels=channels, resume=True)
        targets = targets_of(options, config)
        assert targets is not None and targets.channels == 1
        if channels == 3:
            with pytest.raises(UsageError, match="started with to_channels 1, not 3"):
                refuse_other_targets(options, config)
        else:
            refuse_other_targets(options, config)


def test_a_dry_run_names_targets_or_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        write_images(Path(folder), 8)
    settings = training.dry_run(TrainTranslateOptions(family="translate", data="a", to="b"), Silent())
    assert settings["targets"] == "into images of 3 channels" and "classes" not in settings
