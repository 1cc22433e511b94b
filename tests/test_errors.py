"""Hints: the nearest of several names, or none where it is not certain. Messages of errors in one line."""

from pathlib import Path

import pytest

from imggen.errors import first_line, nearest

SETS = ("mnist", "cifar10", "cifar100")


@pytest.mark.parametrize(
    ("name", "choices", "expected"),
    [
        ("mnits", SETS, "mnist"),
        ("minst", SETS, "mnist"),
        ("cifar", SETS, "cifar10"),
        ("cifar-10", SETS, "cifar10"),
        ("photso", ("photos", "phonon"), "photos"),
        ("Cats", ("dogs", "cats"), "cats"),
        ("e\u0301", ("b", "\u00e9"), "\u00e9"),
        ("learning_rat", ("learning_rate", "layers"), "learning_rate"),
        ("transfomrer", ("gan", "vae", "transformer"), "transformer"),
    ],
)
def test_near_names(name: str, choices: tuple[str, ...], expected: str) -> None:
    assert nearest(name, choices) == expected


@pytest.mark.parametrize("name", ["nonexist", "list", "min", "data", "x", "", "imagenet", "m" * 5000])
def test_names_that_are_not_near(name: str) -> None:
    assert nearest(name, SETS) is None


def test_short_names_are_near_only_to_one_typo() -> None:
    assert nearest("gna", ("gan", "vae")) == "gan"
    assert nearest("abc", ("gan", "vae")) is None
    assert nearest("b", ("a", "c")) is None


def test_errors_of_the_system_are_said_without_their_numbers() -> None:
    with pytest.raises(OSError, match="No such") as caught:
        Path("missing/x").read_bytes()
    assert first_line(caught.value) == "missing/x: No such file or directory"
    assert first_line(OSError(28, "No space left on device")) == "No space left on device"
    assert first_line(OSError("odd\nmore")) == "odd" and first_line(OSError()) == "OSError"
