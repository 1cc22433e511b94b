"""Search by similarity, near-duplicates, and the index that is kept."""

import os
import shutil
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from imggen.data import scan
from imggen.data.shards import list_archives
from imggen.engine import recognition
from imggen.engine.info import describe_file
from imggen.engine.options import EmbedOptions, SearchOptions
from imggen.engine.recognition import vectors as vectors_module
from imggen.engine.recognition.search import group_duplicates, nearest
from imggen.engine.recognition.vectors import Vectors, read_vectors, unit
from imggen.errors import CheckpointError, DataError, UsageError
from imggen.reporting import Silent
from tests.engine.recognition.conftest import write_photos
from tests.helpers import RecordingReporter, run_cli


def search(model: str, reporter: Silent | None = None, **more: Any) -> dict[str, Any]:
    options = SearchOptions(model=model, data="photos", device="cpu", **more)
    return recognition.run_search(options, reporter or Silent())


def matches(result: dict[str, Any], number: int = 0) -> list[str]:
    return [match["path"] for match in result["queries"][number]["matches"]]


@pytest.mark.parametrize("family", ["gan", "vae"])
def test_the_nearest_come_first(photos: Path, model_files: dict[str, str], family: str) -> None:
    result = search(model_files[family], image="photos/red/1.png", count=3)
    assert sorted(matches(result)) == ["photos/red/0.png", "photos/red/2.png", "photos/red/3.png"]
    scores = [match["score"] for match in result["queries"][0]["matches"]]
    assert scores == sorted(scores, reverse=True) and scores[0] <= 1
    longer = search(model_files[family], image="photos/red/1.png", count=9)
    assert matches(longer)[:3] == matches(result) and len(matches(longer)) == 9
    everything = search(model_files[family], image="photos/red/1.png", count=99, own=True)
    assert matches(everything)[0] == "photos/red/1.png" and len(matches(everything)) == 12
    assert everything["queries"][0]["matches"][0]["score"] == pytest.approx(1, abs=1e-4)
    reporter = RecordingReporter()
    nothing = search(model_files[family], reporter, image="photos/red/1.png", above=1.0)
    assert matches(nothing) == [] and "no image is as similar as 1" in reporter.infos
    above = search(model_files[family], image="photos/red/1.png", above=scores[1])
    assert matches(above) == matches(result)[:2]


def test_a_copy_of_the_query_in_another_format_is_left_out(photos: Path, model_files: dict[str, str]) -> None:
    Image.open("photos/blue/2.png").save("query.bmp")
    assert "photos/blue/2.png" not in matches(search(model_files["vae"], image="query.bmp"))
    assert matches(search(model_files["vae"], image="query.bmp", own=True))[0] == "photos/blue/2.png"


def test_several_queries_and_a_sheet(photos: Path, model_files: dict[str, str]) -> None:
    result = search(model_files["vae"], image="photos/green", count=2, output=Path("sheet.png"))
    assert [Path(each["query"]).name for each in result["queries"]] == ["0.png", "1.png", "2.png", "3.png"]
    assert all("green" in path for number in range(4) for path in matches(result, number))
    with Image.open("sheet.png") as sheet:
        assert sheet.width // 3 > 96 and sheet.height // 4 > 96
        row = np.asarray(sheet.convert("RGB"))[20:80]
    assert (row[:, 20:80].mean((0, 1)) - (30, 200, 40) < 30).all()
    with pytest.raises(UsageError, match="already exists"):
        search(model_files["vae"], image="photos/green", output=Path("sheet.png"))


def test_only_new_and_changed_images_are_embedded(
    photos: Path, model_files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    read = vectors_module.read_batches

    def count(source: Any, indices: Any, *rest: Any) -> Any:
        seen.append(len(indices))
        return read(source, indices, *rest)

    monkeypatch.setattr(vectors_module, "read_batches", count)
    first = search(model_files["vae"], image="photos/red/0.png")
    assert seen == [12, 1]
    assert search(model_files["vae"], image="photos/red/0.png")["queries"] == first["queries"] and seen == [12, 1, 1]
    Image.new("RGB", (20, 20), (200, 40, 20)).save("photos/red/new.png")
    Path("photos/blue/3.png").unlink()
    Image.new("RGB", (20, 20), (1, 2, 3)).save("photos/blue/2.png")
    changed = search(model_files["vae"], image="photos/red/0.png", count=99)
    assert seen[3:] == [2, 1] and changed["count"] == 12
    assert "photos/red/new.png" in matches(changed)[:4] and "photos/blue/3.png" not in matches(changed)
    os.utime("photos/green/0.png", (1, 1))
    assert search(model_files["vae"], image="photos/red/0.png", count=99)["queries"] == changed["queries"]
    assert seen[5:] == [1, 1]
    shutil.rmtree("cache/vectors")
    fresh = search(model_files["vae"], image="photos/red/0.png", count=99)
    assert matches(fresh) == matches(changed)


def draw_scene(number: int) -> Image.Image:
    """Two discs of random colors, sizes and places."""
    random, scene = np.random.default_rng(number), np.zeros((32, 32, 3))
    scene[:] = random.uniform(0, 255, 3)
    y, x = np.mgrid[:32, :32] / 31
    for _ in range(2):
        inside = np.hypot(y - random.uniform(), x - random.uniform()) < random.uniform(0.15, 0.4)
        scene[inside] = random.uniform(0, 255, 3)
    return Image.fromarray(scene.astype(np.uint8))


@pytest.mark.parametrize("family", ["gan", "vae"])
def test_copies_in_other_formats_are_found_among_many_images(model_files: dict[str, str], family: str) -> None:
    for folder in ("photos", "copies", "mirrored"):
        Path(folder).mkdir()
    for number in range(500):
        draw_scene(number).save(f"photos/{number}.png")
    for number in range(20):
        draw_scene(number).save(f"copies/{number}.bmp" if number % 2 else f"copies/{number}.jpg")
        ImageOps.mirror(draw_scene(number)).save(f"mirrored/{number}.png")

    def found(image: str, **more: Any) -> int:
        """How often the first match is the original."""
        queries = search(model_files[family], image=image, count=1, **more)["queries"]
        assert len(queries) == 20
        return sum(Path(query["matches"][0]["path"]).stem == Path(query["query"]).stem for query in queries)

    assert found("copies", own=True) == found("copies", own=True, mirror=True) == 20
    assert found("mirrored") < found("mirrored", mirror=True) == 20


def test_an_unchanged_zip_is_not_listed_again(
    photos: Path, model_files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> dict[str, Any]:
        options = SearchOptions(model=model_files["vae"], data="photos.zip", image="photos/red/0.png", device="cpu")
        return recognition.run_search(options, Silent())

    shutil.make_archive("photos", "zip", "photos")
    first = run()
    listed: list[str] = []
    monkeypatch.setattr(scan, "list_archives", lambda *given: listed.append("") or list_archives(*given))
    assert run()["queries"] == first["queries"] and not listed
    Path("photos/red/1.png").unlink()
    shutil.make_archive("photos", "zip", "photos")
    assert run()["count"] == 11 and listed
    # The same contents written anew: listed once, and then known again.
    os.utime("photos.zip", (1, 1))
    del listed[:]
    assert run()["count"] == run()["count"] == 11 and len(listed) == 1


def test_an_index_of_another_model_is_not_used(photos: Path, model_files: dict[str, str]) -> None:
    search(model_files["vae"], image="photos/red/0.png")
    reporter = RecordingReporter()
    result = search(model_files["gan"], reporter, image="photos/red/0.png")
    assert any("another model has indexed photos before" in line for line in reporter.infos)
    assert len(list(Path("cache/vectors").iterdir())) == 2 and result["count"] == 12


def test_a_damaged_index_is_made_again(photos: Path, model_files: dict[str, str]) -> None:
    first = search(model_files["vae"], image="photos/red/0.png")
    (path,) = Path("cache/vectors").iterdir()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    reporter = RecordingReporter()
    assert search(model_files["vae"], reporter, image="photos/red/0.png")["queries"] == first["queries"]
    assert any("the index is made again" in warning for warning in reporter.warnings)
    reporter = RecordingReporter()
    search(model_files["vae"], reporter, image="photos/red/0.png")
    assert not reporter.warnings


def test_duplicates(photos: Path, model_files: dict[str, str]) -> None:
    Image.open("photos/red/0.png").save("photos/red/copy.bmp")
    Image.open("photos/blue/1.png").save("photos/blue/again.png")
    result = search(model_files["vae"], duplicates=True, above=0.9999, output=Path("groups.png"))
    assert [sorted(group) for group in result["groups"]] == [
        ["photos/blue/1.png", "photos/blue/again.png"],
        ["photos/red/0.png", "photos/red/copy.bmp"],
    ]
    sizes = [[Path(path).stat().st_size for path in group] for group in result["groups"]]
    assert all(group == sorted(group, reverse=True) for group in sizes)
    with Image.open("groups.png") as sheet:
        assert sheet.width // 2 > 96 and sheet.height // 2 > 96


def test_no_sheet_is_written_where_there_are_no_duplicates(photos: Path, model_files: dict[str, str]) -> None:
    reporter = RecordingReporter()
    result = search(model_files["vae"], reporter, duplicates=True, above=1.0, output=Path("groups.png"))
    assert not result["groups"] and not result["paths"] and not Path("groups.png").exists()


def test_groups_do_not_depend_on_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(40, 6, generator=generator)
    points[20:] = points[:20] + 0.1 * torch.randn(20, 6, generator=generator)
    directions, pixels = unit(points), np.arange(40)
    groups = {frozenset(group) for group in group_duplicates(directions, pixels, 0.95, Silent())}
    for _ in range(10):
        order = torch.randperm(40, generator=generator)
        other = group_duplicates(directions[order], pixels[order.numpy()], 0.95, Silent())
        assert groups == {frozenset(order[number].item() for number in group) for group in other} and len(groups) > 5
    equal = np.arange(40)
    equal[5] = equal[17]
    assert frozenset((5, 17)) in {frozenset(group) for group in group_duplicates(directions, equal, 1.1, Silent())}


def test_equal_scores_keep_their_order() -> None:
    directions = unit(torch.ones(200, 4))
    found = nearest(directions @ directions[0], np.array([1]), 5, None)
    assert [match.index for match in found] == [0, 2, 3, 4, 5]
    assert nearest(directions @ -directions[0], np.empty(0, int), 3, 0.5) == []


def test_similarities_are_cosines_from_the_center() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, center = torch.randn(2500, 6, generator=generator).half(), torch.randn(6, generator=generator)
    vectors[7] = center = center.half().float()
    ids = np.arange(2500)
    index = Vectors([str(number) for number in ids], vectors, ids, ids, center, {})
    wanted = unit(torch.randn(3, 6, generator=generator))
    expected = torch.cosine_similarity(wanted[:, None].double(), (vectors.double() - center.double())[None], dim=2)
    assert torch.allclose(index.similarities(wanted).double(), expected, atol=1e-6)
    assert torch.allclose(index.directions() @ wanted.T, expected.T.float(), atol=1e-6)


def test_embed_writes_every_format(photos: Path, model_files: dict[str, str]) -> None:
    def embed(name: str, **more: Any) -> dict[str, Any]:
        options = EmbedOptions(model=model_files["vae"], image="photos", output=name, device="cpu", **more)
        return recognition.run_embed(options, Silent())

    result = embed("v.safetensors")
    assert (result["count"], result["paths"]) == (12, ["v.safetensors"])
    embed("v.npz")
    embed("v.csv", batch=5)
    loaded = read_vectors(Path("v.safetensors"))
    with np.load("v.npz", allow_pickle=False) as arrays:
        assert arrays["names"].tolist() == loaded.names and np.array_equal(arrays["vectors"], loaded.vectors.numpy())
    header, *lines = Path("v.csv").read_text().splitlines()
    assert header.split(",")[:2] == ["path", "v0"] and len(lines) == 12
    values = np.array([line.split(",")[1:] for line in lines], dtype=float)
    assert np.allclose(values, loaded.vectors.numpy(), atol=2e-3)
    assert loaded.names[0] == "blue/0.png" and len(header.split(",")) == 1 + result["dimensions"]
    with pytest.raises(UsageError, match="no file of vectors"):
        embed("v.txt")
    with pytest.raises(UsageError, match="already exists"):
        embed("v.csv")


def test_long_vectors_are_projected(photos: Path, tmp_path: Path) -> None:
    from imggen.engine.checkpoints import save_backend
    from imggen.models import build_backend, presets

    torch.manual_seed(0)
    config = presets("gan")["tiny"].with_overrides(size=16, width=8, max_width=64)
    save_backend(Path("wide.safetensors"), build_backend(config), {})
    for name in ("a.safetensors", "b.safetensors"):
        options = EmbedOptions(model="wide.safetensors", image="photos", output=name, device="cpu")
        assert recognition.run_embed(options, Silent())["dimensions"] <= 512
    assert torch.equal(read_vectors(Path("a.safetensors")).vectors, read_vectors(Path("b.safetensors")).vectors)


def test_unreadable_images_are_left_out_up_to_one_in_twenty(model_files: dict[str, str]) -> None:
    write_photos(Path("photos"), count=10)
    Path("photos/red/3.png").write_bytes(b"\x89PNG broken")
    reporter = RecordingReporter()
    result = search(model_files["vae"], reporter, image="photos/red/0.png", count=99)
    assert result["count"] == 29 and any("left out 1 of 30" in warning for warning in reporter.warnings)
    for number in range(4, 7):
        Path(f"photos/red/{number}.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match="4 of"):
        search(model_files["vae"], image="photos/red/0.png")


def test_a_model_that_cannot_see_is_refused(photos: Path) -> None:
    from imggen.engine.checkpoints import save_backend
    from imggen.models import build_backend
    from tests.helpers import small_gan

    slim = build_backend(small_gan().config.with_overrides(slim=True))
    save_backend(Path("slim.safetensors"), slim, {})
    with pytest.raises(UsageError, match="cannot embed images: its file has no discriminator"):
        search("slim.safetensors", image="photos/red/0.png")


def test_vectors_of_strangers(photos: Path, model_files: dict[str, str]) -> None:
    options = EmbedOptions(model=model_files["vae"], image="photos", output="v.safetensors", device="cpu")
    recognition.run_embed(options, Silent())
    data = Path("v.safetensors").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), 3):
            damaged[position] = random.integers(256)
        Path("w.safetensors").write_bytes(
            damaged[: random.integers(1, len(data))] if random.random() < 0.3 else damaged
        )
        with pytest.raises(CheckpointError):
            read_vectors(Path("w.safetensors"))


def test_the_command_line(photos: Path, model_files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ("search", model_files["vae"], "--data", "photos", "--device", "cpu", "--quiet")
    code, out, _ = run_cli(capsys, *words, "--image", "photos/red/0.png", "-k", "2")
    assert code == 0 and [line.split("\t")[1].split("/")[1] for line in out.splitlines()] == ["red", "red"]
    assert float(out.split("\t")[0]) <= 1
    code, out, _ = run_cli(capsys, *words, "--image", "photos/red/0.png", "-k", "2", "--paths")
    assert code == 0 and all(Path(line).is_file() for line in out.splitlines())
    code, out, _ = run_cli(capsys, *words, "--image", "photos/red", "-k", "1")
    assert code == 0 and [len(line.split("\t")) for line in out.splitlines()] == [3] * 4
    shutil.copy("photos/red/0.png", "photos/red/9.png")
    code, out, _ = run_cli(capsys, *words, "--duplicates", "--above", "0.99999")
    assert (code, out) == (0, "photos/red/0.png\tphotos/red/9.png\n")
    code, out, _ = run_cli(capsys, *words, "--duplicates", "--above", "0.99999", "--paths")
    assert (code, out) == (0, "photos/red/9.png\n")
    code, out, _ = run_cli(capsys, *words, "--duplicates", "--above", "0.99999", "--print0")
    assert (code, out) == (0, "photos/red/9.png\0")
    code, _, err = run_cli(capsys, *words, "--duplicates", "--mirror")
    assert code == 2 and "--mirror is for searches by an image" in err
    code, _, err = run_cli(capsys, *words, "--duplicates", "-k", "3")
    assert code == 2 and "groups are shown whole" in err
    code, out, _ = run_cli(capsys, "cache")
    assert code == 0 and f"by {model_files['vae']}" in out
    code, _, err = run_cli(capsys, *words)
    assert code == 2 and "search needs an image, or --duplicates" in err


def test_two_images_are_compared_as_many_are(model_files: dict[str, str]) -> None:
    """Similarities do not depend on what else is in the folder."""
    write_photos(Path("many"))
    for folder in ("photos", "one"):
        Path(folder).mkdir()
        shutil.copy("many/red/0.png", f"{folder}/a.png")
    Image.open("many/red/0.png").save("photos/b.webp", lossless=True)
    assert search(model_files["vae"], duplicates=True)["groups"] == [["photos/a.png", "photos/b.webp"]] or (
        search(model_files["vae"], duplicates=True)["groups"] == [["photos/b.webp", "photos/a.png"]]
    )
    result = search(model_files["vae"], image="photos/a.png")
    assert matches(result) == ["photos/b.webp"] and result["queries"][0]["matches"][0]["score"] > 0.999
    scores = {}
    for data in ("one", "many"):
        options = SearchOptions(model=model_files["vae"], data=data, image="many/blue/0.png", count=99, device="cpu")
        for match in recognition.run_search(options, Silent())["queries"][0]["matches"]:
            scores[match["path"]] = match["score"]
    assert scores["one/a.png"] == pytest.approx(scores["many/red/0.png"], abs=1e-3) and scores["one/a.png"] < 0.95


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_the_largest_file_is_the_one_to_keep(model_files: dict[str, str], kind: str) -> None:
    root = Path("photos" if kind == "folder" else "unpacked")
    write_photos(root, count=2)
    pixels = Image.open(root / "red/0.png")
    pixels.save(root / "red/z.bmp")
    if kind == "zip":
        with zipfile.ZipFile("photos.zip", "w") as archive:
            for path in sorted(root.rglob("*.*")):
                archive.write(path, path.relative_to(root))
    elif kind == "tar":
        with tarfile.open("photos.tar", "w") as archive:
            archive.add(root, "")
    data = "photos" if kind == "folder" else f"photos.{kind}"
    options = SearchOptions(model=model_files["vae"], data=data, duplicates=True, above=0.9999, device="cpu")
    (group,) = recognition.run_search(options, Silent())["groups"]
    assert [Path(path).name for path in group] == ["z.bmp", "0.png"]


def test_a_missing_query_is_noticed_before_anything_is_indexed(photos: Path, model_files: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"no missing\.png"):
        search(model_files["vae"], image="missing.png")
    assert not Path("cache/vectors").exists()


def test_a_cache_that_cannot_be_written_is_said(
    photos: Path, model_files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("x")
    monkeypatch.setenv("IMGGEN_CACHE", "file")
    reporter = RecordingReporter()
    assert search(model_files["vae"], reporter, image="photos/red/0.png")["count"] == 12
    assert any("the index cannot be kept" in warning for warning in reporter.warnings)


def test_many_equal_images_need_no_list_of_pairs() -> None:
    directions, pixels = unit(torch.ones(3000, 4)), np.arange(3000)
    tracemalloc.start()
    assert group_duplicates(directions, pixels, 0.9, Silent()) == [list(range(3000))]
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


def test_info_describes_vectors(photos: Path, model_files: dict[str, str]) -> None:
    options = EmbedOptions(model=model_files["vae"], image="photos", output="v.safetensors", device="cpu")
    recognition.run_embed(options, Silent())
    described = describe_file(Path("v.safetensors"))
    assert (described["kind"], described["count"], described["size"]) == ("vectors", 12, 16)
    assert described["dimensions"] == read_vectors(Path("v.safetensors")).vectors.shape[1]
