"""Names are bytes of a disk: not Unicode, with line breaks, terminal escapes, quotes, markup. All verbs take them."""

import csv
import io
import json
import os
import shlex
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imggen.cli.console import escaped
from imggen.data.masks import MaskTable
from imggen.engine.checkpoints import save_backend
from imggen.engine.recognition.vectors import read_vectors
from imggen.models import build_model, presets
from tests.cli.streams import run_bytes
from tests.helpers import small_gan, small_vae

pytestmark = [
    pytest.mark.usefixtures("few_pairs"),
    pytest.mark.skipif(os.name != "posix", reason="names are not bytes on this system"),
]
ODD = "caf\udce9\n\r\b\x1b[31m\x9b\u202e猫 '\"<b>&[red]$(id)"
CONTROL = {*map(chr, range(32)), *map(chr, range(127, 160))} - {"\n"}


class Command:
    """Runs command lines, and checks of each that it succeeds and that stderr has no control characters."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, *words: object) -> Any:
        """The document that was printed."""
        code, out, err = run_bytes(self.monkeypatch, *words, "--json")
        assert code == 0, err.decode()
        assert not CONTROL & set(err.decode())
        document = json.loads(out.decode("ascii"))
        more = "-q" if words[0] in ("info", "models", "cache") else "--force"
        code, _, err = run_bytes(self.monkeypatch, *words, more)
        assert code == 0, err.decode()
        return document

    def settings_of(self, path: object) -> dict[str, Any]:
        """What `info` reads from a file."""
        document = self("info", path)
        assert isinstance(document, dict)
        return document


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(monkeypatch)


@pytest.fixture
def model() -> str:
    """A model in a run's folder with an odd name, whose class has one too."""
    folder = Path("runs") / ODD
    folder.mkdir(parents=True)
    backend = small_gan(class_counts=(5,))
    object.__setattr__(backend.config, "classes", (ODD,))
    save_backend(folder / "weights.safetensors", backend, {"command": ODD, "data": ODD})
    return str(folder)


@pytest.fixture
def images() -> Path:
    """Two folders with 24 images."""
    random = np.random.default_rng(0)
    for name in (ODD, "plain"):
        (Path("data") / ODD / name).mkdir(parents=True)
        for index in range(12):
            pixels = random.integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(Path("data") / ODD / name / f"{index}{ODD}.png")
    return Path("data") / ODD


@pytest.mark.slow
def test_sampling_and_interpolating(command: Command, model: str) -> None:
    for output in (f"{ODD}.png", f"{ODD}.jpg", f"{ODD}.webp", f"{ODD}/"):
        result = command("sample", model, "-n", 2, "--seed", 1, "--class", ODD, "-o", output)
        path = Path(result["paths"][0])
        settings = command.settings_of(next(path.iterdir()) if path.is_dir() else path)
        words = shlex.split(settings["command"])
        assert words[2] == model and words[words.index("--class") + 1] == ODD
        assert os.fsencode(words[-1]) == os.fsencode(output) or path.is_dir()
    for ending in ("gif", "webp", "png", "mp4"):
        output = f"walk{ODD}.{ending}"
        command("interpolate", model, "--seeds", "1,2", "--frames", 3, "--class", ODD, "-o", output)
        assert shlex.split(command.settings_of(output)["command"])[-1] == output
    command("interpolate", model, "--seeds", "1,2", "--frames", 3, "-o", f"frames{ODD}/")
    assert command("models")["runs"][0]["name"] == model


@pytest.mark.slow
def test_inpainting(command: Command, model: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imggen.models.gan.inversion.SECONDS_PER_IMAGE", 0)
    one = images / "plain" / f"0{ODD}.png"
    result = command("inpaint", model, "--image", one, "--box", "2,2,4,4", "--seed", 1, "-o", f"{ODD}.png")
    assert result["paths"] == [f"{ODD}.png"]
    words = shlex.split(command.settings_of(f"{ODD}.png")["command"])
    assert words[words.index("--image") + 1] == str(one)
    for file in sorted((images / "plain").iterdir())[2:]:
        file.unlink()
    command("sample", model, "--from", images / "plain", "-o", f"pairs{ODD}.png")
    command("inpaint", model, "--image", images / "plain", "--box", "2,2,4,4", "--seed", 1, "-o", f"folder{ODD}/")
    command("sample", model, "--near", one, "-n", 2, "--seed", 1, "-o", f"near{ODD}.png")


@pytest.fixture
def models() -> dict[str, str]:
    """Small models of the other kinds, by their verbs: with odd names and, where they have classes, an odd one."""
    folder = Path("models") / ODD
    folder.mkdir(parents=True)
    paths = {verb: str(folder / f"{verb}{ODD}.safetensors") for verb in ("classify", "segment", "translate")}
    save_backend(Path(paths["classify"]), small_vae(classes=("plain", ODD), class_counts=(5, 5)), {"data": ODD})
    table = MaskTable(False, (0, 1), ("plain", ODD)).to_json()
    segmenter = presets("segment")["tiny"].with_overrides(width=8, halvings=2, table=table)
    translator = presets("translate")["tiny"].with_overrides(width=8, halvings=2)
    for verb, config in (("segment", segmenter), ("translate", translator)):
        save_backend(Path(paths[verb]), build_model(config).eval(), {"command": ODD})
    return paths


def test_recognizing(command: Command, models: dict[str, str], images: Path) -> None:
    """Every file of results names the images as they are called."""
    below, model = f"{ODD}/0{ODD}.png", models["classify"]
    for ending in ("csv", "npz", "safetensors"):
        command("embed", model, "--image", images, "-o", f"v{ODD}.{ending}")
    assert below in np.load(f"v{ODD}.npz")["names"].tolist() == read_vectors(Path(f"v{ODD}.safetensors")).names
    assert below in [row[0] for row in read_csv(f"v{ODD}.csv")]
    assert command.settings_of(f"v{ODD}.safetensors")["count"] == 24
    result = command("classify", model, "--image", images)
    assert str(images / below) in [each["path"] for each in result["labels"]]
    command("classify", model, "--image", images, "-o", f"labels{ODD}.csv")
    rows = read_csv(f"labels{ODD}.csv")
    assert str(images / below) in [row[0] for row in rows] and {row[1] for row in rows[1:]} <= {"plain", ODD}
    result = command("search", model, "--data", images, "--image", images / below, "-o", f"found{ODD}.png")
    assert result["queries"][0]["query"] == str(images / below) and result["paths"] == [f"found{ODD}.png"]
    result = command("search", model, "--data", images, "--duplicates", "--above", -1, "-o", f"same{ODD}.png")
    assert sorted(result["groups"][0]) == sorted(map(str, images.rglob("*.png")))
    assert images.name in {entry["name"] for entry in command("cache")["entries"]}
    command("directions", model, "-o", f"directions{ODD}.png")


def test_mapping(command: Command, models: dict[str, str], images: Path) -> None:
    for verb, words in (
        ("segment", ("--image", images, "--overlay", "--probabilities", "--sheet", f"sheet{ODD}.png")),
        ("translate", ("--image", images)),
        ("stylize", ("--content", images, "--style", images / "plain" / f"0{ODD}.png", "--method", "color")),
    ):
        model = [models[verb]] if verb in models else []
        result = command(verb, *model, *words, "-o", f"{verb}{ODD}/")
        for path in (f"{verb}{ODD}/{ODD}/0{ODD}.png", *([f"sheet{ODD}.png"] if verb == "segment" else [])):
            assert path in result["paths"]
            settings = command.settings_of(path)
            assert {f"{verb}{ODD}/", f"0{ODD}.png"} & set(shlex.split(settings["command"]))
        if verb == "segment":
            assert ODD in {each["name"] for image in result["images"] for each in image["classes"]}


def test_a_line_of_csv_is_one_line_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, models: dict[str, str], images: Path
) -> None:
    words = ("classify", models["classify"], "--image", images, "--top", 2)
    _, out, _ = run_bytes(monkeypatch, *words)
    rows = list(csv.reader(io.StringIO(out.decode("utf-8", "surrogateescape"), newline="")))
    assert len(rows) == 25 and all(len(row) == 5 and Path(row[0]).exists() for row in rows[1:])
    _, out, _ = run_bytes(monkeypatch, *words, terminal=True)
    lines = out.decode().split("\n")
    assert len(lines) == 26 and not CONTROL & set(out.decode()) and lines[1].count("\\x1b") == 4


def read_csv(path: str) -> list[list[str]]:
    with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.reader(file))


def test_evaluating(command: Command, model: str, images: Path) -> None:
    result = command("evaluate", model, "--data", images, "-n", 20, "-o", f"{ODD}.html")
    assert result["report"] == f"{ODD}.html"
    page = Path(f"{ODD}.html").read_bytes().decode()
    assert "caf\N{REPLACEMENT CHARACTER}" in page and "<b>&" not in page
    assert not (CONTROL | {"\u202e"}) & set(page)
    parser = HTMLParser()
    parser.feed(page)
    parser.close()


@pytest.mark.slow
def test_training(command: Command, images: Path) -> None:
    model = ["--width", 8, "--max-width", 16, "--size", 16, "--batch", 8, "--images", 16, "--seed", 3]
    code, _, err = run_bytes(command.monkeypatch, "train", "gan", "--data", images, "-o", ODD, "--tensorboard")
    assert code == 2 and b"not Unicode" in err
    unicode = ODD.replace("\udce9", "é")
    command("train", "gan", "--data", images, "-o", unicode, *model, "--tensorboard")
    assert list((Path(unicode) / "tensorboard").iterdir())
    result = command("train", "gan", "--data", images, "-o", f"run{ODD}", *model)
    run = Path(f"run{ODD}")
    assert result["weights"] == str(run / "weights.safetensors")
    assert "data" not in tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    described = command.settings_of(run)
    assert described["classes"] == ["plain", ODD] or described["classes"] == [ODD, "plain"]
    assert described["provenance"]["data"] == ODD
    assert list((run / "samples").iterdir())
    command("sample", run, "--class", ODD, "-n", 1, "--seed", 1, "-o", "x.png")


def test_paths_are_printed_as_they_are_but_escaped_on_a_terminal(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    words = ("sample", model, "-n", 1, "--seed", 1, "-o", f"{ODD}.png", "--force")
    code, out, _ = run_bytes(monkeypatch, *words)
    assert code == 0 and out == os.fsencode(f"{ODD}.png") + b"\n"
    code, out, err = run_bytes(monkeypatch, *words, terminal=True)
    assert code == 0 and out.decode() == "caf\\xe9\\n\\r\\x08\\x1b[31m\\x9b\\u202e猫 '\"<b>&[red]$(id).png\n"
    assert not CONTROL & set(err.decode())


def test_messages_name_a_file_whatever_characters_its_name_has(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = [chr(code) for code in (*range(1, 47), *range(58, 65), *range(123, 162)) if chr(code) != "\\"]
    name = "".join([*letters, "\u2028\ufeff\U0001f408\udce9.png"])
    for terminal in (False, True):
        code, _, err = run_bytes(monkeypatch, "info", name, terminal=terminal)
        assert code == 3 and f"error: there is no file {escaped(name)}\n" in err.decode()
        assert not CONTROL & set(err.decode())


def test_a_byte_of_a_file_is_escaped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = PngInfo()
    chunk.add_itxt("imggen", json.dumps({"command": f"imggen {ODD}", "literal": r"\x1b"}))
    Image.new("L", (4, 4)).save("x.png", pnginfo=chunk)
    shown = r"caf\xe9\n\r\x08\x1b[31m\x9b\u202e猫"
    for terminal in (False, True):
        code, out, _ = run_bytes(monkeypatch, "info", "x.png", terminal=terminal)
        assert code == 0 and shown in out.decode() and "literal            \\x1b\n" in out.decode()


@pytest.mark.parametrize("terminal", [False, True])
def test_errors_and_text_of_files_have_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, model: str, terminal: bool
) -> None:
    for words, expected in (
        (("sample", "x" + ODD), 3),
        (("info", ODD + ".png"), 3),
        (("train", "gan", "--data", ODD), 3),
        (("sample", model, "--class", "x" + ODD), 2),
        (("inpaint", model, "--image", ODD, "--box", "1,1,2,2"), 3),
        (("sample", "gan", "--config", ODD), 2),
        (("sample", "gan", f"--{ODD}"), 2),
        ((ODD,), 2),
        (("info", model), 0),
        (("models",), 0),
        (("sample", model, "-n", 1, "--seed", 1, "-o", f"{ODD}.png", "--dry-run"), 0),
        (("sample", "x" + ODD, "--debug"), 3),
    ):
        code, out, err = run_bytes(monkeypatch, *words, terminal=terminal)
        assert code == expected, (words, err.decode())
        assert not CONTROL & set(out.decode() + err.decode()), words
