"""What the user types: parsing, precedence, refusals, exit codes, what goes to stdout; all in this process."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from imggen.cli.app import main
from imggen.cli.train import parse_count
from imggen.errors import UsageError

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """Run a command line; returns the exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 1 if code else 0), out.decode("latin-1"), err.decode()

    return run


def train(data: Path, output: str = "run", *more: object) -> list[object]:
    model = ["--width", 8, "--max-width", 16, "--size", 16, "--batch", 16, "--images", 64, "--seed", 3]
    return ["train", "gan", "--data", data, "-o", output, *model, *more]


HELP = [["--help"], ["-h"], ["train", "-h"], ["train", "gan", "-h"], ["sample", "-h"], ["info", "-h"], ["models", "-h"]]
HELP += [["interpolate", "-h"], ["inpaint", "-h"]]


@pytest.mark.parametrize("words", HELP)
def test_help(call: Call, words: list[str]) -> None:
    code, out, err = call(*words)
    assert code == 0 and "Usage: imggen" in out and not err
    if words[0] not in ("--help", "-h") and words != ["train", "-h"]:
        assert "Example: imggen" in out


def test_the_command_line_is_frozen(call: Call) -> None:
    """Scripts rest on these names: to take one away is a change that breaks them."""
    expected = {
        "sample": "--count -n --seed --seeds --class --temperature --steps --guidance --top-k --top-p --weights "
        "--output -o --columns --format --resume --from --near",
        "train gan": "--data --size --channels --crop --split --no-classes --strict --mirror --images --epochs "
        "--minutes --output -o --resume --seed --save-minutes --tensorboard --preset --z-dim --width --learning-rate",
        "train transformer": "--data --preset --factor --codes --tokenizer-width --tokenizer-share --edges --raster "
        "--width --depth --heads --dropout --drop-label --learning-rate --weight-decay --ema-images --adversarial",
        "train vae": "--data --evaluate-every --preset --encoder --decoder --depth --patch --width --max-width "
        "--bottleneck --convolutions --z --hidden --likelihood --mixtures --learning-rate --muon-rate --weight-decay "
        "--cosine --no-cosine --warm-up --free --skip --ema-images --filling --sharpen",
        "evaluate": "--data --count -n --seed --size --crop --features --iw --temperature --steps --guidance --top-k "
        "--top-p --weights --output -o",
        "interpolate": "--seeds --seed --from --to --class --class-from --class-to --temperature --weights --path "
        "--loop --ease --pace --frames --output -o --fps --grid --strip --zoom --steady --steps --guidance --top-k "
        "--top-p",
        "inpaint": "--image --count -n --seed --class --temperature --weights --mask --box --mask-from-alpha --expand "
        "--invert-mask --resize-mask --grow --feather --method --context --output -o --sheet --format --steps "
        "--guidance --top-k --top-p",
        "info": "",
        "models": "",
    }
    for verb, names in expected.items():
        _, out, _ = call(*verb.split(), "-h")
        found = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", out))
        common = {"--config", "--quiet", "-q", "--json", "--debug", "--no-color", "--help", "-h"}
        machine = {"--device", "--batch", "--force"} if names else set()
        machine |= {"--dry-run"} if names and verb != "evaluate" else set()
        machine |= {"--precision"} if names and verb not in ("inpaint", "evaluate") else set()
        assert found >= {*names.split(), *common, *machine}, verb


def test_version_and_no_arguments(call: Call) -> None:
    code, out, _ = call("--version")
    assert code == 0 and re.fullmatch(r"imggen \d+\.\d+\.\d+\n", out)
    code, out, err = call()
    assert code == 2 and "Usage" in out + err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["smaple", "gan"], 2, "sample"),
        (["train", "gna"], 2, "gan"),
        (["train", "gan"], 2, "--data"),
        (["train", "gan", "--data", "x", "--preset", "tniy"], 2, "tiny"),
        (["train", "gan", "--data", "x", "--images", "many"], 2, "number of pictures"),
        (["train", "gan", "--data", "x", "--size", "0"], 2, "size"),
        (["train", "gan", "--data", "x", "--channels", "2"], 2, "channels"),
        (["train", "gan", "--data", "x", "--crop", "middle"], 2, "center"),
        (["train", "gan", "--data", "x", "--images", "5", "--minutes", "5"], 2, "exclude"),
        (["train", "gan", "--data", "nowhere"], 3, "nowhere"),
        (["train", "gan", "--data", "x", "--resume"], 2, "nothing to resume"),
        (["train", "gan", "--data", "x", "--device", "cuda:97"], 4, "cuda"),
        (["train", "gan", "--data", "x", "--device", "abacus"], 4, "abacus"),
        (["sample"], 2, "MODEL"),
        (["sample", "gan", "-n", "0"], 2, "--count"),
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
        (["interpolate", "gan", "--seeds", "1,2", "--from", "a.png"], 2, "through pictures"),
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
        (["inpaint", "--image", "x.png"], 2, "which model"),
        (["inpaint", "gan", "--image", "x.png", "--box", "1,2,3"], 2, "box"),
        (["inpaint", "gan", "--image", "x.png", "--box", "1,2,0,3"], 2, "box"),
        (["inpaint", "gan", "--image", "x.png", "--expand", "far"], 2, "how far"),
        (["inpaint", "gan", "--image", "x.png", "--method", "magic"], 2, "classical"),
        (["inpaint", "--method", "classical", "-n", "2", "--image", "x.png"], 2, "one fill"),
        (["inpaint", "gan", "--image", "x.png", "--format", "gif"], 2, "formats"),
        (["inpaint", "gan", "--image", "x.png", "--context", "0.5"], 2, "--context"),
        (["inpaint", "gan", "--image", "none.png", "--box", "1,1,2,2"], 3, "none.png"),
        (["info", "nothing.png"], 3, "nothing.png"),
        (["sample", "gan", "--config", "none.toml"], 2, "none.toml"),
    ],
)
def test_wrong_input_is_one_line_with_a_code(call: Call, words: list[str], code: int, message: str) -> None:
    found, out, err = call(*words)
    assert (found, out) == (code, "")
    lines = err.strip().splitlines()
    assert message in err and any(line.startswith("error: ") for line in lines)
    assert "Traceback" not in err and len([line for line in lines if line.startswith("error: ")]) == 1
    assert not [path for path in Path().iterdir() if path.name not in ("cache", "runs")]


def test_a_traceback_only_when_asked_for(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" in call("sample", "gna", "--debug")[2]
    monkeypatch.setenv("IMGGEN_DEBUG", "1")
    assert "Traceback" in call("sample", "gna")[2]


def test_faults_of_our_own_say_so(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("odd")

    monkeypatch.setattr("imggen.engine.sampling.sample.sample", broken)
    code, _, err = call("sample", "gan")
    assert code == 1 and "internal: ValueError: odd" in err and "--debug" in err
    for error, number in ((MemoryError(), 4), (KeyboardInterrupt(), 130), (OSError(28, "full"), 3)):

        def fails(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("imggen.engine.sampling.sample.sample", fails)
        assert call("sample", "gan")[0] == number


def test_train_then_sample_then_info(call: Call, image_folder: Path) -> None:
    code, out, err = call(*train(image_folder))
    assert (code, out) == (0, "run/weights.safetensors\n")
    for word in ("120 pictures", "16x16 colour", "2 classes", "gan/tiny", "cpu, fp32, batch 16", "seed 3"):
        assert word in err
    code, out, err = call("sample", "run", "-n", 4, "--seed", 1, "-o", "x.png")
    assert (code, out) == (0, "x.png\n") and "run/weights.safetensors" in err
    code, out, _ = call("info", "x.png")
    assert code == 0 and "1-4" in out and "imggen sample run" in out
    code, out, _ = call("info", "run")
    assert code == 0 and "disc, square" in out and "tiny" in out and "--images 64" in out
    code, out, _ = call("info", "run/state.safetensors")
    assert code == 0 and "state" in out


def test_json_is_all_there_is_on_stdout(call: Call, image_folder: Path) -> None:
    result = json.loads(call(*train(image_folder), "--json")[1])
    assert result["images"] == 64 and result["seed"] == 3 and Path(result["weights"]).exists()
    drawn = json.loads(call("sample", "run", "-n", 2, "--seed", 4, "--json")[1])
    assert drawn["seeds"] == "4-5" and drawn["paths"] == ["samples.png"] and drawn["hash"] == result["hash"]
    assert json.loads(call("info", "samples.png", "--json")[1])["seeds"] == "4-5"
    found = json.loads(call("models", "--json")[1])
    assert "tiny" in found["families"]["gan"] and any(line["name"] == "gan" for line in found["shipped"])


def test_quiet_leaves_only_results(call: Call, image_folder: Path) -> None:
    code, out, err = call(*train(image_folder), "--quiet")
    assert (code, out, err) == (0, "run/weights.safetensors\n", "")
    assert call("sample", "run", "-q", "-o", "a.png")[1:] == ("a.png\n", "")


def test_dry_runs_write_nothing(call: Call, image_folder: Path) -> None:
    before = sorted(path for path in Path().rglob("*") if "cache" not in path.parts)
    code, out, _ = call(*train(image_folder), "--dry-run", "--json")
    found = json.loads(out)
    assert code == 0 and found["width"] == 8 and found["device"] == "cpu" and found["size"] == 16
    code, out, _ = call("sample", "gan", "-n", 7, "--seed", 1, "--dry-run", "--quiet")
    assert code == 0 and "1-7" in out
    assert sorted(path for path in Path().rglob("*") if "cache" not in path.parts) == before


def test_seeds_are_drawn_and_said(call: Call) -> None:
    seeds = {re.search(r"seed (\d+)", call("sample", "gan", "-n", 1, "-o", f"{k}.png")[2]) for k in range(2)}
    assert len({match[1] for match in seeds if match}) == 2


def test_precedence(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(*more: object) -> int:
        found: int = json.loads(call("sample", "gan", "--seed", 0, "--dry-run", "--json", *more)[1])["count"]
        return found

    Path("c.toml").write_text("count = 5\n", encoding="utf-8")
    assert count() == 64
    assert count("--config", "c.toml") == 5
    monkeypatch.setenv("IMGGEN_SAMPLE_COUNT", "6")
    assert count("--config", "c.toml") == 6
    assert count("--config", "c.toml", "-n", 7) == 7


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


def test_a_budget_that_is_given_takes_the_place_of_the_files(call: Call, image_folder: Path) -> None:
    call(*train(image_folder, "run"))
    words = ["train", "gan", "--config", "run/config.toml", "-o", "again", "--dry-run", "--json"]
    assert json.loads(call(*words)[1])["images"] == 64
    found = json.loads(call(*words, "--epochs", 2)[1])
    assert found["images"] == 240
    code, _, err = call(*words, "--epochs", 2, "--minutes", 1)
    assert code == 2 and "exclude each other" in err


def test_resume_by_the_same_command(call: Call, image_folder: Path) -> None:
    call(*train(image_folder, "run", "--mirror", "--no-classes"))
    longer = ["train", "gan", "--data", image_folder, "-o", "run", "--images", 96, "--resume"]
    code, _, err = call(*longer)
    assert code == 0 and "resuming run at 64 pictures" in err
    assert json.loads(call("info", "run", "--json")[1])["provenance"]["images"] == 96
    code, _, err = call(*train(image_folder, "run", "--resume", "--seed", 4))
    assert code == 2 and "seed 3" in err


def test_overwriting_is_refused_at_once(call: Call, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("grid.png").write_bytes(b"mine")
    code, _, err = call("sample", "gan", "-o", "grid.png")
    assert code == 2 and "--force" in err and Path("grid.png").read_bytes() == b"mine"
    call(*train(image_folder))
    code, _, err = call(*train(image_folder))
    assert code == 2 and "--resume" in err and "--force" in err


def test_no_colour(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in call("sample", "gna")[2]
    assert "\x1b[" not in call("sample", "gna", "--no-color")[2].replace("\x1b[1m", "").replace("\x1b[0m", "")
    monkeypatch.delenv("FORCE_COLOR")
    assert "\x1b[" not in call("sample", "gna")[2]


def test_nothing_in_a_file_reaches_the_terminal_raw(call: Call) -> None:
    from PIL import Image, PngImagePlugin

    chunk = PngImagePlugin.PngInfo()
    chunk.add_itxt("imggen", json.dumps({"command": "\x1b]0;owned\x07 rm", "seeds": "1"}))
    Image.new("L", (2, 2)).save("x.png", pnginfo=chunk)
    code, out, _ = call("info", "x.png")
    assert code == 0 and "\x1b" not in out and "\x07" not in out


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


def test_config_of_a_folder_with_an_odd_name(call: Call, image_folder: Path) -> None:
    odd = image_folder.rename('😀 \x7f "imgs"')
    assert call(*train(odd))[0] == 0
    code, _, err = call("train", "gan", "--config", "run/config.toml", "-o", "again")
    assert code == 0, err


@pytest.mark.parametrize(("text", "number"), [("2M", 2_000_000), ("500k", 500_000), ("1e6", 1_000_000), ("1.5k", 1500)])
def test_counts(text: str, number: int) -> None:
    assert parse_count(text) == number


@pytest.mark.parametrize("text", ["", "M", "-5", "5x", "1e99", "nan"])
def test_counts_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_count(text)
