"""Class names: as they are typed, and classes that the data had no image of; and batches for a CPU."""

import pytest

from imggen.errors import UsageError
from imggen.models import presets


def config(*classes: str, counts: tuple[int, ...] | None = None) -> object:
    return presets("gan")["tiny"].with_overrides(classes=classes, class_counts=counts or (1,) * len(classes))


def test_names_composed_differently_are_the_same() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    assert config("b", decomposed).class_index(composed) == 1
    assert config("b", composed).class_index(decomposed) == 1
    assert config(composed, decomposed).class_index(decomposed) == 1


@pytest.mark.parametrize(
    ("name", "hint"), [("Cat", "did you mean 'cat'?"), ("cta", "did you mean 'cat'?"), ("fox", "classes: cat, \udce9")]
)
def test_other_names_are_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match="no class") as caught:
        config("cat", "\udce9").class_index(name)
    assert hint in str(caught.value.hint)


def test_a_class_without_images_is_refused() -> None:
    model = config("a", "b", "c", counts=(3, 0, 1))
    assert model.trained_classes == (0, 2) and model.class_index("c") == 2
    with pytest.raises(UsageError, match=r"no image of.*'b'") as caught:
        model.class_index("b")
    assert caught.value.hint == "classes: a, c"


@pytest.mark.parametrize("family", ["gan", "vae", "transformer"])
@pytest.mark.parametrize(("size", "batch"), [(16, 32), (32, 32), (64, 8), (128, 8)])
def test_larger_images_come_in_smaller_batches_on_a_cpu(family: str, size: int, batch: int) -> None:
    assert presets(family)["tiny"].with_overrides(size=size).cpu_batch == batch
    assert presets(family)["base"].with_overrides(size=size).cpu_batch is None
