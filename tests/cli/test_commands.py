"""What the user types: parsing, precedence, refusals, exit codes, what goes to stdout; all in this process."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from imggen.errors import UsageError
from imggen.option import parse_count
from tests.cli.snapshot import snapshot
from tests.helpers import run_cli

pytestmark = pytest.mark.usefixtures("few_pairs")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command line; returns the exit code, stdout and stderr."""
    return lambda *words: run_cli(capsys, *words)


def train(data: Path, output: str = "run", *more: object) -> list[object]:
    model = ["--width", 8, "--max-width", 16, "--size", 16, "--batch", 16, "--images", 64, "--seed", 3]
    return ["train", "gan", "--data", data, "-o", output, *model, *more]


HELP = ["--help", "-h", "train -h", "train gan -h", "train transformer -h", "train vae -h", "sample -h"]
HELP += [
    "interpolate -h",
    "inpaint -h",
    "stylize -h",
    "directions -h",
    "evaluate -h",
    "explore -h",
    "info -h",
    "models -h",
    "cache -h",
]


@pytest.mark.parametrize("command", HELP)
def test_help(call: Call, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code, out, err = call(*command.split())
    assert code == 0 and "Usage: imggen" in out and not err
    assert "Example: imggen" in out or command == "train -h"
    assert "922337" not in out and "[default: None]" not in out
    rows = [line.strip("│").rstrip() for line in out.splitlines() if line.startswith("│")]
    # Every option takes one line: a row that begins with blanks would be the rest of the one above.
    assert not [row for row in rows if row.startswith(" " * 10)]
    # So does every preset.
    presets = out.partition("Preset tiny: ")[2].partition("\n╭")[0].splitlines()[1:]
    assert not [line for line in presets if line.strip() and not line.startswith(" Preset ")]


def test_commands_are_listed_in_the_order_of_use(call: Call) -> None:
    _, out, _ = call("--help")
    verbs = [
        "train",
        "sample",
        "directions",
        "interpolate",
        "inpaint",
        "stylize",
        "translate",
        "embed",
        "search",
        "classify",
        "segment",
    ]
    verbs += ["evaluate", "explore", "export", "info", "models", "cache"]
    assert [line.split()[1] for line in out.partition("Commands")[2].splitlines() if line.startswith("│")] == verbs
    _, out, _ = call("train", "--help")
    assert "Sharpest images" in out and "Varied images" in out and "Best likelihood" in out


def test_help_shows_defaults(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = {command: call(*command.split(), "-h")[1] for command in ("sample", "interpolate", "train gan")}
    for command, text in (
        ("sample", "[default: 64]"),
        ("sample", "[default: random, printed]"),
        ("sample", "[default: 1; 0.5 with --near]"),
        ("interpolate", "[default: 1x1]"),
        ("interpolate", "[default: 40 per segment; 8 with --strip]"),
        ("train gan", "[default: chosen from the data]"),
        ("train gan", "[default: 100; base 64]"),
        ("train gan", "--[no-]cosine"),
    ):
        assert text in shown[command], (command, text)


def test_the_command_line_is_frozen() -> None:
    """Scripts depend on the names, flags, defaults, ranges and choices of every command.

    After a change that is meant: python tests/cli/snapshot.py > tests/cli/commands.json
    """
    frozen = json.loads((Path(__file__).parent / "commands.json").read_text(encoding="utf-8"))
    current = json.loads(snapshot())
    assert current.keys() == frozen.keys()
    for command, parameters in frozen.items():
        assert current[command] == parameters, command


def test_version_and_no_arguments(call: Call) -> None:
    code, out, _ = call("--version")
    assert code == 0 and re.fullmatch(r"imggen \d+\.\d+\.\d+\n", out)
    for command in ((), ("train",)):
        code, out, err = call(*command)
        assert (code, err) == (2, "") and out.rstrip() == call(*command, "--help")[1].rstrip()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["smaple", "gan"], 2, "sample"),
        (["train", "gna"], 2, "gan"),
        (["train", "gan"], 2, "--data"),
        (["train", "gan", "--data", "x", "--preset", "tniy"], 2, "tiny"),
        (["train", "gan", "--data", "x", "--images", "many"], 2, "number of images"),
        (["train", "gan", "--data", "x", "--size", "0"], 2, "size"),
        (["train", "gan", "--data", "x", "--channels", "2"], 2, "channels"),
        (["train", "gan", "--data", "x", "--crop", "middle"], 2, "center"),
        (["train", "gan", "--data", "x", "--images", "5", "--minutes", "5"], 2, "exclude"),
        (["train", "gan", "--data", "nowhere"], 3, "nowhere"),
        (["train", "gan", "--data", "x", "--resume"], 2, "nothing to resume"),
        (["train", "gan", "--data", "x", "--device", "cuda:97"], 4, "cuda"),
        (["train", "gan", "--data", "x", "--device", "abacus"], 4, "abacus"),
        (["sample"], 2, "MODEL"),
        (["sample", "gan", "-n", "0"], 2, "--count must be at least 1"),
        (["sample", "gan", "--temperature", "3"], 2, "--temperature must be at least 0 and at most 2, not 3.0"),
        (["sample", "gan", "--top-p", "0"], 2, "--top-p"),
        (["sample", "gan", "--from", "x.png", "--seed", "3"], 2, "--from"),
        (["train", "gan", "--data", "x", "--width", "2"], 2, "width must be at least 4"),
        (["evaluate", "gan", "--data", "x", "--crop", "middle"], 2, "center, random or pad"),
        (["sample", "gan", "--seeds", "5-2"], 2, "backwards"),
        (["sample", "gan", "--seeds", "1", "--seed", "2"], 2, "--seeds"),
        (["sample", "gan", "--class", "eleven"], 2, "eleven"),
        (["sample", "gan", "-o", "x.bmp"], 2, "bmp"),
        (["sample", "gan", "-o", "x.png", "--format", "jpeg"], 2, "format"),
        (["sample", "gan", "--format", "bmp"], 2, "bmp"),
        (["sample", "gan", "--precision", "fp8"], 2, "fp8"),
        (["sample", "gan", "-o", "-", "--json"], 2, "stdout"),
        (["sample", "gna"], 3, "gan"),
        (["sample", "gan", "--weights", "none.safetensors"], 3, "none.safetensors"),
        (["interpolate", "gan", "--seeds", "3"], 2, "at least two keyframes"),
        (["interpolate", "gan", "--seeds", "3-"], 2, "not a seed"),
        (["interpolate", "gan", "--seeds", "1,2", "--seed", "3"], 2, "--seeds"),
        (["interpolate", "gan", "--seeds", "1,2", "--from", "a.png"], 2, "seeds or images"),
        (["interpolate", "gan", "--from", "a.png", "--to", "b.png"], 3, "a.png cannot be read"),
        (["interpolate", "gan", "--path", "straight"], 2, "slerp"),
        (["interpolate", "gan", "--pace", "fast"], 2, "perceptual"),
        (["interpolate", "gan", "--ease", "bounce"], 2, "cubic"),
        (["interpolate", "gan", "--grid", "4"], 2, "4x2"),
        (["interpolate", "gan", "--class-from", "3"], 2, "--class-to"),
        (["interpolate", "gan", "--class", "3", "--class-from", "3", "--class-to", "4"], 2, "--class"),
        (["interpolate", "gan", "-o", "x.avi"], 2, ".gif"),
        (["interpolate", "gan", "--fps", "60"], 2, "50"),
        (["interpolate", "gan", "--seed", "0", "--frames", "3"], 2, "more keyframes"),
        (["interpolate", "gna"], 3, "gan"),
        (["inpaint", "gan"], 2, "--image"),
        (["inpaint", "--image", "x.png"], 2, "no model"),
        (["inpaint", "gan", "--image", "x.png", "--box", "1,2,3"], 2, "box"),
        (["inpaint", "gan", "--image", "x.png", "--box", "1,2,0,3"], 2, "box"),
        (["inpaint", "gan", "--image", "x.png", "--expand", "far"], 2, "number of pixels"),
        (["inpaint", "gan", "--image", "x.png", "--method", "magic"], 2, "classical"),
        (["inpaint", "--method", "classical", "-n", "2", "--image", "x.png"], 2, "one result"),
        (
            ["inpaint", "gan", "--image", "x.png", "--format", "gif"],
            2,
            "--format must be png, webp, tiff or jpeg, not 'gif'",
        ),
        (["inpaint", "gan", "--image", "x.png", "--context", "0.5"], 2, "--context"),
        (["inpaint", "gan", "--image", "none.png", "--box", "1,1,2,2"], 3, "none.png"),
        (["train", "gan", "--data", "x", "--cache", "ram"], 2, "--cache must be auto, disk or none, not 'ram'"),
        (["info", "nothing.png"], 3, "nothing.png"),
        (["info", "gna"], 3, "did you mean 'gan'"),
        (["sample", "gan", "--config", "none.toml"], 2, "none.toml"),
    ],
)
def test_wrong_input_is_one_line_with_a_code(call: Call, words: list[str], code: int, message: str) -> None:
    exit_code, out, err = call(*words)
    assert (exit_code, out) == (code, "")
    lines = err.strip().splitlines()
    assert message in err and any(line.startswith("error: ") for line in lines)
    assert "Traceback" not in err and len([line for line in lines if line.startswith("error: ")]) == 1
    assert not [path for path in Path().iterdir() if path.name not in ("cache", "runs")]


def test_a_command_does_not_take_over_the_settings_of_the_one_before(call: Call) -> None:
    assert "Traceback" in call("info", "missing.png", "--debug")[2]
    assert "Traceback" not in call("no-such-verb")[2]


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "gan", "-o", "x.bmp"],
        ["interpolate", "gan", "-o", "x.avi"],
        ["inpaint", "gan", "--image", "none.png", "--box", "1,1,2,2"],
    ],
)
def test_a_random_seed_is_printed_once_the_options_are_accepted(call: Call, words: list[str]) -> None:
    assert not re.search(r"^seed \d", call(*words)[2], re.MULTILINE)
    Image.new("RGB", (8, 8)).save("x.png")
    accepted = ["inpaint", "gan", "--image", "x.png", "--box", "1,1,2,2"] if words[0] == "inpaint" else words[:2]
    code, out, err = call(*accepted, "--dry-run", "--json")
    assert code == 0 and len(re.findall(r"^seed \d+$", err, re.MULTILINE)) == 1
    plan = json.loads(out)
    assert str(plan.get("seed", plan.get("seeds"))).split("-")[0] == err.split("seed ")[1].split()[0]


def test_a_traceback_only_when_asked_for(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" in call("sample", "gna", "--debug")[2]
    monkeypatch.setenv("IMGGEN_DEBUG", "1")
    assert "Traceback" in call("sample", "gna")[2]


@pytest.mark.slow
def test_train_then_sample_then_info(call: Call, image_folder: Path) -> None:
    code, out, err = call(*train(image_folder))
    assert (code, out) == (0, "run/weights.safetensors\n")
    for word in ("imgs: 120 ", "16x16", "2 classes", "gan/tiny", "cpu, fp32, batch 16", "seed 3"):
        assert word in err
    code, out, err = call("sample", "run", "-n", 4, "--seed", 1, "-o", "x.png")
    assert (code, out) == (0, "x.png\n") and "run/weights.safetensors" in err
    code, out, _ = call("info", "x.png")
    assert code == 0 and "1-4" in out and "imggen sample run" in out
    code, out, _ = call("info", "run")
    assert code == 0 and "disc, square" in out and "tiny" in out and "--images 64" in out
    code, out, _ = call("info", "gan")
    assert code == 0 and "gan.safetensors" in out and "tiny" in out
    code, out, _ = call("info", "run/state.safetensors")
    assert code == 0 and "state" in out


@pytest.mark.slow
def test_json_is_all_there_is_on_stdout(call: Call, image_folder: Path) -> None:
    result = json.loads(call(*train(image_folder), "--json")[1])
    assert result["images"] == 64 and result["seed"] == 3 and Path(result["weights"]).exists()
    sampled = json.loads(call("sample", "run", "-n", 2, "--seed", 4, "--json")[1])
    assert sampled["seeds"] == "4-5" and sampled["paths"] == ["samples.png"] and sampled["hash"] == result["hash"]
    assert json.loads(call("info", "samples.png", "--json")[1])["seeds"] == "4-5"
    listing = json.loads(call("models", "--json")[1])
    assert "tiny" in listing["families"]["gan"] and any(line["name"] == "gan" for line in listing["shipped"])


@pytest.mark.slow
def test_quiet_leaves_only_results(call: Call, image_folder: Path) -> None:
    code, out, err = call(*train(image_folder), "--quiet")
    assert (code, out, err) == (0, "run/weights.safetensors\n", "")
    assert call("sample", "run", "-q", "-o", "a.png")[1:] == ("a.png\n", "")


def test_dry_runs_write_nothing(call: Call, image_folder: Path) -> None:
    before = sorted(path for path in Path().rglob("*") if "cache" not in path.parts)
    code, out, _ = call(*train(image_folder), "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0 and plan["width"] == 8 and plan["device"] == "cpu" and plan["size"] == 16
    code, out, _ = call("sample", "gan", "-n", 7, "--seed", 1, "--dry-run", "--quiet")
    assert code == 0 and "1-7" in out
    assert sorted(path for path in Path().rglob("*") if "cache" not in path.parts) == before


def test_random_seeds_are_printed(call: Call) -> None:
    seeds = {re.search(r"seed (\d+)", call("sample", "gan", "-n", 1, "-o", f"{k}.png")[2]) for k in range(2)}
    assert len({match[1] for match in seeds if match}) == 2


def test_precedence(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(*more: object) -> int:
        return int(json.loads(call("sample", "gan", "--seed", 0, "--dry-run", "--json", *more)[1])["count"])

    Path("c.toml").write_text("count = 5\n", encoding="utf-8")
    assert count() == 64
    assert count("--config", "c.toml") == 5
    monkeypatch.setenv("IMGGEN_SAMPLE_COUNT", "6")
    assert count("--config", "c.toml") == 6
    assert count("--config", "c.toml", "-n", 7) == 7


@pytest.mark.slow
def test_config_files(call: Call, image_folder: Path) -> None:
    Path("bad.toml").write_text("temprature = 0.5\n", encoding="utf-8")
    code, _, err = call("sample", "gan", "--config", "bad.toml")
    assert code == 2 and "did you mean 'temperature'" in err
    Path("bad.toml").write_text("= 1", encoding="utf-8")
    assert call("sample", "gan", "--config", "bad.toml")[0] == 2
    Path("bad.toml").write_text('temperature = "hot"\n', encoding="utf-8")
    code, _, err = call("sample", "gan", "--config", "bad.toml")
    assert code == 2 and "temperature" in err
    call(*train(image_folder, "run", "--mirror", "--no-classes"))
    again = call("train", "gan", "--config", "run/config.toml", "-o", "again", "--json")
    assert again[0] == 0, again[2]
    assert json.loads(again[1])["hash"] == json.loads(call("info", "run", "--json")[1])["hash"]


@pytest.mark.slow
def test_a_budget_on_the_command_line_replaces_that_of_the_file(call: Call, image_folder: Path) -> None:
    call(*train(image_folder, "run"))
    words = ["train", "gan", "--config", "run/config.toml", "-o", "again", "--dry-run", "--json"]
    assert json.loads(call(*words)[1])["images"] == 64
    assert json.loads(call(*words, "--epochs", 2)[1])["images"] == 240
    code, _, err = call(*words, "--epochs", 2, "--minutes", 1)
    assert code == 2 and "exclude each other" in err


@pytest.mark.slow
def test_resume_by_the_same_command(call: Call, image_folder: Path) -> None:
    call(*train(image_folder, "run", "--mirror", "--no-classes"))
    longer = ["train", "gan", "--data", image_folder, "-o", "run", "--images", 96, "--resume"]
    code, _, err = call(*longer)
    assert code == 0 and "resuming run at 64 " in err
    assert json.loads(call("info", "run", "--json")[1])["provenance"]["images"] == 96
    code, _, err = call(*train(image_folder, "run", "--resume", "--seed", 4))
    assert code == 2 and "seed 3" in err


@pytest.mark.slow
def test_overwriting_is_refused_at_once(call: Call, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("grid.png").write_bytes(b"mine")
    code, _, err = call("sample", "gan", "-o", "grid.png")
    assert code == 2 and "--force" in err and Path("grid.png").read_bytes() == b"mine"
    call(*train(image_folder))
    code, _, err = call(*train(image_folder))
    assert code == 2 and "--resume" in err and "--force" in err


def test_no_color(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in call("sample", "gna")[2]
    assert "\x1b[" not in call("sample", "gna", "--no-color")[2].replace("\x1b[1m", "").replace("\x1b[0m", "")
    monkeypatch.delenv("FORCE_COLOR")
    assert "\x1b[" not in call("sample", "gna")[2]


def test_control_characters_of_files_are_not_printed(call: Call) -> None:
    from PIL import Image, PngImagePlugin

    chunk = PngImagePlugin.PngInfo()
    chunk.add_itxt("imggen", json.dumps({"command": "\x1b]0;owned\x07 rm", "seeds": "1"}))
    Image.new("L", (2, 2)).save("x.png", pnginfo=chunk)
    code, out, _ = call("info", "x.png")
    assert code == 0 and "\x1b" not in out and "\x07" not in out


@pytest.mark.slow
def test_models_lists_runs_and_damaged_ones_too(call: Call, image_folder: Path) -> None:
    call(*train(image_folder, "runs/cats"))
    Path("runs/dogs").mkdir()
    Path("runs/dogs/weights.safetensors").write_bytes(b"x")
    code, out, _ = call("models")
    assert code == 0 and "gan/dcgan" in out and "runs/cats" in out and "2 classes" in out
    assert "runs/dogs" in out and "cut short" in out


def test_default_name_follows_the_format(call: Call) -> None:
    assert call("sample", "gan", "-n", 1, "--format", "jpeg")[1] == "samples.jpeg\n"
    assert Path("samples.jpeg").read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.slow
def test_config_of_a_folder_with_an_odd_name(call: Call, image_folder: Path) -> None:
    odd = image_folder.rename('😀 \x7f "imgs"')
    assert call(*train(odd))[0] == 0
    code, _, err = call("train", "gan", "--config", "run/config.toml", "-o", "again")
    assert code == 0, err


@pytest.mark.parametrize(("text", "number"), [("2M", 2_000_000), ("500k", 500_000), ("1e6", 1_000_000), ("1.5k", 1500)])
def test_counts(text: str, number: int) -> None:
    assert parse_count(text) == number


@pytest.mark.parametrize("text", ["", "M", "-5", "5x", "1e99", "nan"])
def test_texts_that_are_no_counts(text: str) -> None:
    with pytest.raises(UsageError):
        parse_count(text)
