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


CATS = ("cats/1.png", "dogs/2.png")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("training_set/training_set", "test_set/test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("asl_alphabet_train", "asl_alphabet_test"),
        ("Training", "Testing"),
        ("images-train", "images-val"),
        ("w/Train", "w/Validation"),
    ],
)
def test_names_of_splits(train: str, test: str) -> None:
    names = [f"{folder}/{name}" for folder in (train, test) for name in CATS]
    layout = arrange(names, "train", True, "source")
    assert (layout.chosen, layout.classes, layout.warnings) == ([0, 1], ("cats", "dogs"), ())


def test_two_domains_are_two_classes() -> None:
    layout = arrange(["trainA/1.png", "trainB/2.png", "testA/3.png", "testB/4.png"], "test", True, "source")
    assert (layout.chosen, layout.labels, layout.classes) == ([2, 3], [0, 1], ("A", "B"))


def test_images_without_labels_take_no_class_away() -> None:
    names = [f"seg_{split}/{name}" for split in ("train", "test") for name in CATS] + ["seg_pred/9.png"]
    assert arrange(names, "train", True, "source").classes == ("cats", "dogs")
    everything = arrange(names, "all", True, "source")
    assert everything.chosen == [0, 1, 2, 3] and "1 images without a class" in everything.warnings[0]
    assert arrange(names, "all", False, "source").chosen == [0, 1, 2, 3, 4]
    flat = ["train/cats/1.png", "train/dogs/2.png", "test/3.png"]
    assert arrange(flat, "train", True, "source").classes == ("cats", "dogs")
    assert arrange(flat, "test", True, "source") == arrange(flat, "test", False, "source")


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["test_images/a.png", "training_set/b.png"], ("test_images", "training_set")),
        (["cats/train/1.png", "cats/test/2.png", "dogs/train/3.png", "dogs/test/4.png"], ("cats", "dogs")),
        (["train/1.png", "test/2.png", "extra/3.png"], ("extra", "test", "train")),
    ],
)
def test_doubtful_splits_are_classes_with_a_warning(names: list[str], classes: tuple[str, ...]) -> None:
    layout = arrange(names, "train", True, "source")
    assert layout.classes == classes and "look like splits, and all of them are read" in layout.warnings[0]
    assert arrange(names, "all", True, "source").warnings == ()


def test_classes_that_happen_to_have_such_names_are_no_splits() -> None:
    layout = arrange(["train/1.png", "bus/2.png", "car/3.png"], "train", True, "source")
    assert (layout.classes, layout.warnings) == (("bus", "car", "train"), ())


def test_classes_that_look_the_same_are_one() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    names = [f"train/{decomposed}/1.png", "train/b/2.png", f"test/{composed}/3.png"]
    layout = arrange(names, "all", True, "source")
    assert (layout.classes, layout.labels) == (("b", composed), [1, 0, 1])
