"""Every verb that reads a folder lists it in the same way, and says the same of what it leaves out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imggen.data.dataset import DataOptions, scan_dataset
from imggen.data.scan import open_images
from imggen.engine.inpainting.inputs import find_inputs
from imggen.engine.interpolation.plan import find_images
from imggen.engine.options import InpaintOptions
from imggen.errors import DataError
from imggen.reporting import Reporter
from tests.data.helpers import tree
from tests.helpers import RecordingReporter

OUTPUT = "d/out.png"
Lister = Callable[[Reporter], list[str]]


def list_data(reporter: Reporter) -> list[str]:
    options = DataOptions(exclude=(Path(OUTPUT),), cache_dir=Path("cache"))
    return scan_dataset("d", options, max_size=32, reporter=reporter).source.names


def list_sampling(reporter: Reporter) -> list[str]:
    return open_images("d", reporter, exclude=[Path(OUTPUT)]).names


def list_interpolation(reporter: Reporter) -> list[str]:
    return [path.relative_to("d").as_posix() for path in find_images([Path("d")], Path(OUTPUT), reporter)]


def list_inpainting(reporter: Reporter) -> list[str]:
    options = InpaintOptions(model="gan", image=Path("d"), boxes=((0, 0, 1, 1),), output=OUTPUT, sheet=True)
    return [each.image.relative_to("d").as_posix() for each in find_inputs(options, reporter)]


LISTERS = (list_data, list_sampling, list_interpolation, list_inpainting)


@pytest.mark.parametrize("lister", LISTERS)
def test_one_folder_is_the_same_for_every_verb(lister: Lister) -> None:
    root = tree(Path("d"), "a.png", "sub/c.png", "x.heic", "out.png", ".hidden/x.png", "n\new.png", "notes.txt")
    tree(Path("other"), "b.png")
    (root / "linked").symlink_to(Path("other").absolute())
    (root / "loop").symlink_to(root.absolute())
    (root / "gone.png").symlink_to("nowhere")
    reporter = RecordingReporter()
    assert lister(reporter) == ["a.png", "linked/b.png", "n\new.png", "sub/c.png"]
    assert [line.split(": ", 1)[1].split(":")[0] for line in reporter.warnings] == [
        "1 .heic file is left out",
        "links that lead to no file are left out",
    ]
    assert reporter.infos == ["d: ignored 1 file that is not an image (1 .txt)"]


@pytest.mark.parametrize("lister", LISTERS)
def test_a_folder_without_images_is_the_same_error_for_every_verb(lister: Lister) -> None:
    tree(Path("d"), "x.heic", "y.heic")
    with pytest.raises(DataError, match="there are no images in d") as caught:
        lister(RecordingReporter())
    assert "2 .heic" in str(caught.value.hint)
