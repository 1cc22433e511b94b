"""A user whose home folder cannot be written to: every verb works, and says at most once where the cache is."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from imggen.cli.app import Verbs
from imggen.engine.checkpoints import save_backend
from tests.faults.runs import BATCH, make_images, make_targets, train_words
from tests.helpers import run_cli, small_gan

# They use no cache; `explore` does what other verbs do.
WITHOUT_A_CACHE = {"export", "models", "info", "interpolate", "explore"}
MODEL = "gan.safetensors"


@pytest.mark.usefixtures("few_pairs", "few_resamples")
@pytest.mark.slow
def test_every_verb_works_without_a_home_folder_that_can_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("IMGGEN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", os.devnull)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make_images(Path("imgs"), 12)
    make_images(Path("labeled"), 12, classes=2)
    make_targets("segment")
    make_targets("translate")
    save_backend(Path(MODEL), small_gan(), {})
    image, cache = "imgs/0000.png", tmp_path / f"imggen-{os.getuid()}"
    commands = [
        train_words("classify", "classify", BATCH, data="labeled"),
        train_words("segment", "segment", BATCH),
        [*train_words("translate", "translate", BATCH), "--paired", "--noise", "2"],
        ["evaluate", "classify", "--data", "labeled"],
        ["evaluate", "segment", "--data", "imgs", "--masks", "masks"],
        ["evaluate", "translate", "--from", "imgs", "--data", "others"],
        ["evaluate", MODEL, "--data", "imgs", "-n", "12"],
        ["classify", "classify", "--image", "imgs"],
        ["segment", "segment", "--image", "imgs", "-o", "segmented/"],
        ["translate", "translate", "--image", image, "-n", "2", "-o", "translated/"],
        ["embed", MODEL, "--image", "imgs", "-o", "vectors.npz"],
        ["search", MODEL, "--data", "imgs", "--image", image],
        ["stylize", "--content", image, "--style", "imgs/0001.png", "--method", "color", "-o", "styled.png"],
        ["directions", MODEL],
        ["sample", MODEL, "--direction", "1=2", "-o", "sample.png"],
        ["inpaint", "--method", "classical", "--image", image, "--box", "1,1,2,2", "-o", "filled.png"],
        ["cache"],
        ["cache", "clear"],
    ]
    assert {words[0] for words in commands} == set(Verbs.summaries) - WITHOUT_A_CACHE
    for words in commands:
        code, _, err = run_cli(capsys, *words)
        about_cache = [line for line in err.splitlines() if "cache" in line or "decoded" in line]
        assert code == 0 and len(about_cache) <= 1 and "kept" not in err, (words, err)
        if words[0] == "train":
            assert f"{os.devnull}/.cache/imggen cannot be made: images are decoded into {cache}" in about_cache[0]
    assert np.load("vectors.npz")["vectors"].shape[0] == 12
    assert cache.is_dir() and not [path for path in cache.rglob("*") if path.suffix in (".npy", ".safetensors")]
