"""What `imggen info` shows of files that anyone can write: bounded, and never in place of what is true."""

import json
import time
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from imggen.cli.info import _lines
from imggen.engine.info import describe_file
from imggen.errors import DataError
from imggen.io.model_paths import shipped_weights
from tests.helpers import run_cli


def png_with(settings: str) -> Path:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("imggen", settings)
    Image.new("L", (4, 4)).save("x.png", pnginfo=text)
    return Path("x.png")


@pytest.mark.parametrize(
    "settings",
    [
        '{"a":' * 900 + "1" + "}" * 900,
        "[" * 30 + "]" * 30,
        '{"a":' + "9" * 5000 + "}",
        '{"a":' + "[" * 50_000,
        "nul",
        '{"a": NaN}',
    ],
)
def test_settings_that_are_too_deep_or_no_json_are_none(settings: str) -> None:
    with pytest.raises(DataError, match="was not made by imggen"):
        describe_file(png_with(settings))


def test_settings_cannot_replace_what_is_said_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    path = png_with('{"a": null, "b": [1, {"c": 2.5}], "kind": "x", "path": 5, "file": "/etc/passwd"}')
    code, out, _ = run_cli(capsys, "info", path, "--json")
    expected = {"kind": "image", "file": "x.png", "a": None, "b": [1, {"c": 2.5}]}
    assert code == 0 and json.loads(out) == expected
    assert run_cli(capsys, "info", path)[1].splitlines()[:2] == [f"{'kind':18} image", f"{'file':18} x.png"]


def test_nested_settings_are_printed_in_linear_time() -> None:
    document: dict[str, object] = {"end": 1}
    for _ in range(20_000):
        document = {"a": document}
    began = time.process_time()
    lines = _lines(document)
    assert len(lines) == 20_001 and max(map(len, lines)) < 60
    assert time.process_time() - began < 2
    assert _lines({"a": {"b": 1, "c": {"d": []}}, "e": 2}) == [
        "a:",
        f"  {'b':18} 1",
        "  c:",
        f"    {'d':18} none",
        f"{'e':18} 2",
    ]


def test_a_gif_of_gigapixels_is_refused() -> None:
    Path("b.gif").write_bytes(b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0;")
    with pytest.raises(DataError, match=r"b\.gif is not an image that can be read"):
        describe_file(Path("b.gif"))


def test_a_model_with_classes_is_calibrated_or_not() -> None:
    described = {name: describe_file(path) for name, path in shipped_weights().items()}
    assert described["gan-digits"]["calibrated"] and "calibrated" not in described["gan-emoji"]
