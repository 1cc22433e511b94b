"""Every verb that reads a folder lists it in the same way, and says the same of what it leaves out."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imggen.data.dataset import DataOptions, scan_dataset
from imggen.data.scan import open_images
from imggen.engine.inpainting.inputs import find_inputs
from imggen.engine.interpolation.plan import find_images
from imggen.engine.mapping.inputs import find_contents
from imggen.engine.mapping.segment import segment
from imggen.engine.mapping.translate import translate
from imggen.engine.options import (
    ClassifyOptions,
    EmbedOptions,
    InpaintOptions,
    SearchOptions,
    SegmentOptions,
    StylizeOptions,
    TranslateOptions,
    VerbOptions,
)
from imggen.engine.recognition.classify import classify
from imggen.engine.recognition.embed import embed
from imggen.engine.recognition.search import search
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


def list_stylize(reporter: Reporter) -> list[str]:
    style = Path(OUTPUT) if Path(OUTPUT).exists() else Path("style.png")
    style.touch()
    options = StylizeOptions(content=Path("d"), style=(style,), output="styled/")
    return [each.path.relative_to("d").as_posix() for each in find_contents(options, reporter)]


class Listed(Exception):
    """Ends a verb once it has listed its images."""


def _lister(name: str, work: Callable[[Any, Reporter], Any], options: VerbOptions) -> Lister:
    """What a verb that opens its images with `open_images` finds."""

    def list_images(reporter: Reporter) -> list[str]:
        names: list[str] = []

        def open_and_stop(*given: Any, **more: Any) -> None:
            names.extend(open_images(*given, **more).names)
            raise Listed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{work.__module__}.open_images", open_and_stop)
            with contextlib.suppress(Listed):
                work(options, reporter)
        return names

    list_images.__name__ = name
    return list_images


list_embed = _lister("list_embed", embed, EmbedOptions(model="vae", image="d"))
list_classify = _lister("list_classify", classify, ClassifyOptions(image="d"))
LISTERS = (
    list_data,
    list_sampling,
    list_interpolation,
    list_inpainting,
    list_stylize,
    _lister("list_segment", segment, SegmentOptions(image="d", sheet=Path(OUTPUT))),
    _lister("list_translate", translate, TranslateOptions(image="d", output=OUTPUT)),
    _lister("list_searched", search, SearchOptions(model="vae", data="d", duplicates=True, output=Path(OUTPUT))),
    _lister("list_queries", search, SearchOptions(model="vae", data=".", image="d", output=Path(OUTPUT))),
    list_embed,
    list_classify,
)
WRITING_NO_IMAGE = (list_embed, list_classify)


@pytest.mark.parametrize("lister", LISTERS, ids=lambda lister: lister.__name__)
def test_one_folder_is_the_same_for_every_verb(lister: Lister) -> None:
    root = tree(Path("d"), "a.png", "sub/c.png", "x.heic", "out.png", ".hidden/x.png", "n\new.png", "notes.txt")
    tree(Path("other"), "b.png")
    (root / "linked").symlink_to(Path("other").absolute())
    (root / "loop").symlink_to(root.absolute())
    (root / "gone.png").symlink_to("nowhere")
    reporter = RecordingReporter()
    names = ["a.png", "linked/b.png", "n\new.png", "sub/c.png"]
    assert lister(reporter) == sorted([*names, "out.png"] if lister in WRITING_NO_IMAGE else names)
    assert [line.split(": ", 1)[1].split(":")[0] for line in reporter.warnings] == [
        "1 .heic file is left out",
        "links that lead to no file are left out",
    ]
    assert reporter.infos == ["d: ignored 1 file that is not an image (1 .txt)"]


@pytest.mark.parametrize("lister", LISTERS, ids=lambda lister: lister.__name__)
def test_a_folder_without_images_is_the_same_error_for_every_verb(lister: Lister) -> None:
    tree(Path("d"), "x.heic", "y.heic")
    with pytest.raises(DataError, match="there are no images in d") as caught:
        lister(RecordingReporter())
    assert "2 .heic" in str(caught.value.hint)
