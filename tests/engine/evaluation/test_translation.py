"""What `imggen evaluate` of a translator reads."""

from pathlib import Path

import pytest

from imggen.engine.evaluation import check
from imggen.engine.evaluation.samples import scan_split
from imggen.engine.options import EvaluateOptions
from imggen.errors import UsageError
from imggen.reporting import Silent
from tests.data.helpers import write_images


@pytest.mark.parametrize(("data", "source"), [("out", "out/in"), ("out/in", "out")])
def test_images_to_translate_and_targets_inside_each_other(
    data: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMGGEN_CACHE", "cache")
    write_images(Path("out"), 4)
    write_images(Path("out/in"), 6)
    for side, other in ((data, source), (source, data)):
        options = EvaluateOptions(model="m", data=side, source=other)
        assert len(scan_split(options, None, None, "all", Silent())) == {"out": 4, "out/in": 6}[side]


def test_images_are_not_their_own_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("imgs")
    for source, data in (("imgs", "imgs"), ("imgs", "./imgs/"), ("link", "imgs"), (str(tmp_path / "imgs"), "imgs")):
        with pytest.raises(UsageError, match="would be their own targets"):
            check(EvaluateOptions(model="translate", data=data, source=source))
    check(EvaluateOptions(model="translate", data="others", source="imgs"))
