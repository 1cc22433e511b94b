"""Splits and classes from paths."""

import pytest

from imggen.data.layout import NoSplitError, arrange, is_hidden, is_image_file


@pytest.mark.parametrize(
    ("names", "classes", "labels"),
    [
        (["a.png", "x/b.png", "y/c.png"], (), [0, 0, 0]),
        (["x/a.png", "x/b.png"], (), [0, 0]),
        (["w/v/x/a.png", "w/v/y/b.png"], ("x", "y"), [0, 1]),
        (["0/a.png", "10/b.png", "2/c.png"], ("0", "2", "10"), [0, 2, 1]),
        (["training/x/a.png", "valid/y/b.png"], ("x", "y"), [0]),
    ],
)
def test_classes(names: list[str], classes: tuple[str, ...], labels: list[int]) -> None:
    layout = arrange(names, "train", True, "source")
    assert (layout.classes, layout.labels) == (classes, labels)
    assert arrange(names, "train", False, "source").classes == ()


def test_splits() -> None:
    names = ["train/a.png", "test/b.png", "train/c.png"]
    assert arrange(names, "train", True, "source").chosen == [0, 2]
    assert arrange(names, "test", True, "source").chosen == [1]
    assert arrange(names, "all", True, "source").chosen == [0, 1, 2]
    with pytest.raises(NoSplitError, match="no val split") as caught:
        arrange(names, "val", True, "source")
    assert "test, train" in str(caught.value.hint)
    with pytest.raises(NoSplitError, match="not divided"):
        arrange(["a.png"], "test", True, "source")


def test_names() -> None:
    assert is_image_file("x/a.JPEG") and not is_image_file("a.txt") and not is_image_file("png")
    assert is_hidden("a/.b/c.png") and is_hidden("__MACOSX/a.png") and is_hidden("Thumbs.db") and not is_hidden("a.b/c")
