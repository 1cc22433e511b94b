"""What files record: the command has what differs from the defaults, and reads back as the same options."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import imggen
from imggen.cli.app import main
from imggen.cli.invocation import Invocation
from imggen.engine.checkpoints import LoadedModel
from imggen.engine.options import InpaintOptions, InterpolateOptions, ModelOptions, SampleOptions
from imggen.engine.provenance import command, settings, settings_of_files
from tests.helpers import small_gan

VERBS: dict[type[ModelOptions], str] = {
    SampleOptions: "sample",
    InterpolateOptions: "interpolate",
    InpaintOptions: "inpaint",
}
DOORS = {"sample": "sampling", "interpolate": "interpolation", "inpaint": "inpainting"}
CASES: list[ModelOptions] = [
    SampleOptions(model="gan", seeds="3,5-9"),
    SampleOptions(model="runs/my cats", seed=2, count=9, label="it's", temperature=0.5, columns=3, output="a b.png"),
    SampleOptions(model="gan", seed=1, near=Path("x.png")),
    SampleOptions(model="gan", seed=1, near=Path("x.png"), temperature=1.0, steps=3, guidance=2.5, top_k=4, top_p=0.9),
    SampleOptions(model="gan", source=Path("imgs"), precision="bf16"),
    InterpolateOptions(model="vae", seed=1, grid=(4, 2), fps=12.5, loop=True, path="spline", steady=True, zoom=2),
    InterpolateOptions(model="vae", start=(Path("a.png"), Path("b c.png")), end=(Path("d.png"),), pace="perceptual"),
    InpaintOptions(model="gan", image=Path("x.png"), boxes=((1, 2, 3, 4), (5, 6, 7, 8)), seed=7, invert=True),
    InpaintOptions(image=Path("x.png"), method="classical", mask=Path("m.png"), expand=(1, 2, 3, 4), output="y.png"),
]


@pytest.mark.parametrize("options", CASES, ids=range(len(CASES)))
def test_the_command_reads_back_as_the_same_options(options: ModelOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    verb, parsed = VERBS[type(options)], []

    def record(options: Any, reporter: Any) -> dict[str, Any]:
        parsed.append(options)
        return {"paths": [], "steps": {}}

    monkeypatch.setattr(f"imggen.engine.{DOORS[verb]}.run", record)
    with pytest.raises(SystemExit):
        main(shlex.split(command(verb, options))[1:])
    assert parsed == [options], Invocation.words


def test_only_what_differs_from_the_defaults_is_in_the_command() -> None:
    options = SampleOptions(model="gan", seed=3, output="x.png", device="cpu", batch=5, force=True, top_k=2)
    assert command("sample", options) == "imggen sample gan --top-k 2 --seed 3 -o x.png"
    resolved = command("sample", options, seed=None, seeds="4", columns=2, top_k=None, output="one.png")
    assert resolved == "imggen sample gan --seeds 4 --columns 2 -o one.png"
    # What was used is in the command even where it is the default, for that of the command line may be random.
    inpaint = InpaintOptions(model="gan", image=Path("x.png"), boxes=((1, 2, 3, 4),))
    words = command("inpaint", inpaint, seed=0, from_alpha=False, output="y.png")
    assert words == "imggen inpaint gan --image x.png --seed 0 --box 1,2,3,4 -o y.png"
    own = SampleOptions(model="gan", weights=Path("a b.safetensors"), seeds="1", output="x.png")
    assert command("sample", own) == "imggen sample 'a b.safetensors' --seeds 1 -o x.png"


def test_settings_have_the_names_of_the_flags_and_fit_into_json() -> None:
    loaded = LoadedModel(small_gan(), Path("w.safetensors"), "given", "abc", {}, torch.bfloat16)
    options = InterpolateOptions(
        model="gan", start=(Path("a.png"),), label_from="1", label_to="2", grid=(2, 1), top_p=0.5, output="w.gif"
    )
    recorded = settings("interpolate", options, loaded, frames=40, loop=False, ease=None)
    assert recorded == json.loads(json.dumps(recorded)) == {
        "imggen": imggen.__version__,
        "verb": "interpolate",
        "model": "gan",
        "hash": "abc",
        "temperature": 1.0,
        "precision": "bf16",
        "top_p": 0.5,
        "from": ["a.png"],
        "class_from": "1",
        "class_to": "2",
        "loop": False,
        "frames": 40,
        "grid": "2x1",
        "command": "imggen interpolate gan --top-p 0.5 --from a.png --class-from 1 --class-to 2 --frames 40"
        " --grid 2x1 -o w.gif",
    }  # fmt: skip
    classical = InpaintOptions(image=Path("x.png"), method="classical", boxes=((1, 2, 3, 4),))
    assert settings("inpaint", classical, None) == {
        "imggen": imggen.__version__,
        "verb": "inpaint",
        "image": "x.png",
        "box": ["1,2,3,4"],
        "method": "classical",
        "command": "imggen inpaint --image x.png --box 1,2,3,4 --method classical",
    }


def test_settings_of_many_files_are_those_of_each() -> None:
    loaded = LoadedModel(small_gan(), Path("w.safetensors"), "given", "abc", {}, torch.float32)
    options = SampleOptions(model="50% {seeds} cats", label="all", count=2, temperature=0.5, output="a b/")
    unused = {"seed": None, "count": None}
    of_file = settings_of_files("sample", options, loaded, "seeds", "label", "output", **unused)
    for seed, label in (("3", "it's"), ("4", "%(seeds)s"), ("5", "plain")):
        values = {"seeds": seed, "label": label, "output": f"{seed} %d.png"}
        assert of_file(**values) == settings("sample", options, loaded, **unused, **values)
