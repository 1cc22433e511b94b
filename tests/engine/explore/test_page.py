"""The page in headless Chromium: every tab, driven as a visitor does, against the files that the commands write."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import chdir, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imggen.engine.checkpoints import save_backend
from imggen.engine.run_dir import RunDir
from imggen.models import build_model, presets
from tests.cli.forks import Fork, Server
from tests.engine.explore.requests import send_bad_requests
from tests.helpers import find_browser, run_cli, save_segmenter, small_vae

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SECONDS = 90  # a busy machine takes long to import what the page needs
SIZE = 16


class Site:
    """A page that is served by a process in a folder of its own."""

    def __init__(self, server: Server, folder: Path, *words: str) -> None:
        self.folder = folder
        with chdir(folder):
            self.process = Fork(server, "explore", *words, "--no-open", "--port", 0, "--device", "cpu")
        deadline = time.monotonic() + SECONDS
        while not (self.process.files[0].exists() and self.process.out.endswith("\n")):
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        self.url = self.process.out.strip()
        self.port = int(self.url.rpartition(":")[2])

    def stop(self) -> int:
        """Press Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(SECONDS)

    def close(self) -> None:
        """End the process, however."""
        self.process.send_signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for temporary files of all pages."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def server(temporary: Path) -> Iterator[Server]:
    """A process that has imported what a page needs, to fork pages from."""
    server = Server("imggen.engine.sampling.sample", "gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        yield server
        server.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = find_browser()
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        context = browser.new_context()  # its pages share a cache
        context.set_default_timeout(1000 * SECONDS)
        yield context
        browser.close()


@pytest.fixture(scope="module")
def site(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page of a run of a VAE with two classes, and with data to search."""
    folder = tmp_path_factory.mktemp("site")
    run = RunDir(folder / "runs" / "people")
    run.samples.mkdir(parents=True)
    save_backend(run.weights, small_vae(classes=("disc", "square"), class_counts=(1, 1)), {})
    for number in range(3):
        run.append_metrics({"images": 64 * number, "seconds": 60.0 * number, "progress": 0.1 * number, "loss": number})
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(run.samples / f"{64 * number:06d}.png")
    (folder / "data").mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(folder / "data" / f"{number}.png")
    with closing(Site(server, folder, "people", "--data", "data")) as site:
        yield site


@pytest.fixture(scope="module")
def opened(chromium: Any, site: Site) -> Iterator[Any]:
    """The page, opened once for all tests."""
    with visit(chromium, site) as page:
        yield page


@pytest.fixture
def page(opened: Any, site: Site, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page without kept images; the current folder is that of the site, as its commands expect."""
    monkeypatch.chdir(site.folder)
    monkeypatch.setenv("IMGGEN_CACHE", str(site.folder / "cache"))
    while tiles := opened.locator("#kept [data-index]").count():
        opened.locator("#kept [data-index='0']").click()
        opened.get_by_role("button", name="Remove").click()
        opened.wait_for_selector(f"#kept [data-index='{tiles - 1}']", state="detached")
    return opened


@contextmanager
def visit(chromium: Any, site: Site, width: int = 1280) -> Iterator[Any]:
    """Open the page; nothing may be asked of another host, nothing may go wrong in the browser."""
    page = chromium.new_page()
    page.set_viewport_size({"width": width, "height": 900})
    wrong: list[str] = []
    local = (site.url, "data:", "blob:")
    page.on("request", lambda request: request.url.startswith(local) or wrong.append(request.url))
    page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(site.url)
    page.wait_for_selector("[role=tab]")
    yield page
    page.close()
    assert not wrong


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).first.click()


def images_in(page: Any, place: str) -> list[bytes]:
    """The bytes of the images that are shown in an element."""
    page.wait_for_selector(f"{place} img")
    sources = [image.get_attribute("src") for image in page.locator(f"{place} img").all()]
    return [base64.b64decode(source.partition("base64,")[2]) for source in sources]


def downloaded(page: Any, link: str) -> bytes:
    """The bytes of the file that a click on a link saves."""
    with page.expect_download() as download:
        page.locator(link).first.click()
    return Path(download.value.path()).read_bytes()


def command_in(page: Any, name: str) -> list[str]:
    words = shlex.split(page.locator(f"#{name} textarea").input_value())
    assert words[0] == "imggen"
    return words[1:]


def run(capsys: pytest.CaptureFixture[str], words: list[str], *more: str) -> str:
    """Run a command that the page shows; returns what it prints."""
    code, out, err = run_cli(capsys, *words, "--device", "cpu", *more)
    assert code == 0, err
    return out


def keep(page: Any, *seeds: int) -> None:
    open_tab(page, "Sample")
    for number, seed in enumerate(seeds):
        if not page.locator(f"#grid [title='seed {seed}']").count():
            page.locator("#first-seed input").fill(str(seed))
        page.locator(f"#grid [title='seed {seed}']").click()
        page.wait_for_selector(f"#kept [data-index='{number}'][title='seed {seed}']")


def test_the_grid_shows_what_sample_draws(page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shown = images_in(page, "#grid")
    run(capsys, command_in(page, "grid-command"))
    assert shown == [path.read_bytes() for path in sorted(Path("samples").iterdir())] and len(shown) == 24
    page.get_by_role("button", name="Next").click()
    page.wait_for_selector("#grid [title='seed 24']")
    page.locator("#count input[type=number]").fill("3")
    page.wait_for_selector("#grid [data-index='3']", state="detached")
    shown = images_in(page, "#grid")
    run(capsys, command_in(page, "grid-command"), "--force")
    assert shown == [Path(f"samples/{seed:08d}.png").read_bytes() for seed in (24, 25, 26)]


def test_a_kept_image_is_downloaded_and_varied(page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    keep(page, 3)
    saved = downloaded(page, "#chosen a")
    run(capsys, command_in(page, "chosen-command"))
    assert saved == Path("00000003.png").read_bytes() == images_in(page, "#kept")[0]
    page.get_by_text("More like this").click()
    page.locator("#draw-near").click()
    near = images_in(page, "#near")
    run(capsys, command_in(page, "near-command"))
    assert near == [Path("near.png").read_bytes()]


def test_a_walk_through_kept_images(page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    open_tab(page, "Walk")
    page.locator("#walk-button").click()
    page.get_by_text("two kept images or more").wait_for()
    keep(page, 5, 2)
    page.get_by_role("button", name="Earlier").click()
    page.wait_for_selector("#kept [data-index='0'][title='seed 2']")
    open_tab(page, "Walk")
    page.locator("#walk-frames input[type=number]").fill("8")
    for ending in ("gif", "webp"):
        page.locator("#walk-format").get_by_text(ending).click()
        page.locator("#walk-button").click()
        page.wait_for_selector(f"#walk a[download='walk.{ending}']")
        saved = downloaded(page, "#walk a")
        words = command_in(page, "walk-command")
        run(capsys, words)
        assert saved == Path(f"walk.{ending}").read_bytes() == images_in(page, "#walk")[0]
        assert words[words.index("--seeds") + 1] == "2,5"


def test_a_mask_painted_with_the_mouse_is_filled_exactly_there(page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    keep(page, 4)
    open_tab(page, "Fill")
    page.locator("#take").click()
    page.locator("#painter canvas").scroll_into_view_if_needed()
    box = page.locator("#painter canvas").bounding_box()
    scale = box["width"] / SIZE

    def draw(*points: tuple[float, float]) -> None:
        """Press, move and release the mouse at places in pixels of the image."""
        for number, (x, y) in enumerate(points):
            page.mouse.move(box["x"] + x * scale, box["y"] + y * scale)
            if number == 0:
                page.mouse.down()
        page.mouse.up()

    page.locator("#painter [name=size]").evaluate("slider => { slider.value = slider.min; }")
    draw((3.5, 2.5), (9.5, 2.5))
    draw((12.5, 5.5), (12.5, 10.5))
    page.locator("#painter [name=erase]").check()
    draw((5.5, 2.5))
    expected = np.zeros((SIZE, SIZE), bool)
    expected[2, 3:10], expected[5:11, 12], expected[2, 5] = True, True, False
    page.locator("#fill-button").click()
    page.wait_for_selector("#fills [data-index='3']")
    Path("mask.png").write_bytes(downloaded(page, "a[download='mask.png']"))
    original = downloaded(page, "#chosen a")
    Path("00000004.png").write_bytes(original)
    with Image.open("mask.png") as mask, Image.open("00000004.png") as image:
        assert np.array_equal(np.asarray(mask) == 255, expected)
        before = np.asarray(image)
    page.locator("#fills [data-index='2']").click()
    page.wait_for_selector("#fill a[download='filled-3.png']")
    saved = downloaded(page, "#fill a")
    with Image.open(io.BytesIO(saved)) as image:
        after = np.asarray(image)
    assert np.array_equal(after[~expected], before[~expected]) and (after != before).any()
    run(capsys, command_in(page, "fill-command"))
    assert saved == Path("filled-3.png").read_bytes()


def test_a_slider_moves_an_image_along_a_direction(page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    keep(page, 6)
    open_tab(page, "Directions")
    page.locator("#take-for-directions").click()
    assert images_in(page, "#moved") == images_in(page, "#chosen")
    page.locator("#direction-1 input[type=number]").fill("2.5")
    page.wait_for_selector("#moved img[alt='seed 6, moved']")
    moved = images_in(page, "#moved")
    words = command_in(page, "moved-command")
    assert words[words.index("--direction") + 1] == "1=2.5" and moved != images_in(page, "#chosen")
    run(capsys, words, "--force")
    assert moved == [Path("00000006.png").read_bytes()]


def test_a_dropped_image_is_found_and_named(page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    open_tab(page, "Find")
    page.locator("#find-drop input").set_input_files("data/3.png")
    page.wait_for_selector("#neighbors img")
    assert images_in(page, "#find-image") == [Path("data/3.png").read_bytes()]
    found = [tile.get_attribute("title") for tile in page.locator("#neighbors button").all()]
    Path("3.png").write_bytes(Path("data/3.png").read_bytes())
    out = json.loads(run(capsys, command_in(page, "search-command"), "--json"))
    expected = [f"{match['score']:.3f} {Path(match['path']).name}" for match in out["queries"][0]["matches"]]
    assert found == expected and len(found) == 5
    out = json.loads(run(capsys, command_in(page, "class-command"), "--json", "-o", "labels.csv"))
    rows = [row.inner_text().split() for row in page.locator("#classes tr").all()]
    assert rows == [[each["label"], f"{each['probability']:.1%}"] for each in out["labels"][0]["classes"]]
    page.locator("#find-drop input").set_input_files([{"name": "x.png", "mimeType": "image/png", "buffer": b"no"}])
    page.get_by_text("x.png cannot be read").wait_for()


def test_a_run_is_shown_while_it_is_under_way(page: Any, site: Site) -> None:
    run = RunDir(site.folder / "runs" / "people")
    run.metrics.touch()  # on a busy machine the tests before this one can take so long that the run counts as stopped
    open_tab(page, "Training")
    page.get_by_text("Under way: 20%, 128 images in 2 min; about 8 min left.").wait_for()
    assert page.locator("#curves svg[aria-label=loss]").count() == 1
    preview = images_in(page, "#preview")[0]
    assert preview == (site.folder / "runs/people/samples/000128.png").read_bytes()
    Image.new("RGB", (8, 8), "blue").save(run.samples / "000256.png")
    run.append_metrics({"images": 256, "seconds": 600.0, "progress": 1.0, "loss": 0.5})
    page.get_by_text("Ended: 256 images in 10 min.").wait_for()
    page.get_by_text("after 256 steps").wait_for()
    assert images_in(page, "#preview")[0] == (run.samples / "000256.png").read_bytes()


def test_two_pages_do_not_mix(page: Any, chromium: Any, site: Site) -> None:
    with visit(chromium, site, width=390) as other:
        keep(page, 1)
        assert other.locator("#kept img").count() == 0
        keep(other, 7)
        page.locator("#grid [title='seed 2']").click()
        page.wait_for_selector("#kept [data-index='1'][title='seed 2']")
        assert page.locator("#kept img").count() == 2 and other.locator("#kept img").count() == 1
        assert other.evaluate("document.documentElement.scrollWidth") <= 390


def test_bad_requests_read_no_file_and_stop_nothing(site: Site) -> None:
    """`python -m tests.engine.explore.requests URL` sends thousands of them."""
    secret = site.folder / "secret.txt"
    secret.write_text("the secret of this test")
    assert send_bad_requests(site.port, 80, secret=secret) == 80
    with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=SECONDS)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().status == 200


def test_the_map_of_an_image(server: Server, chromium: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_segmenter(tmp_path / "masks.safetensors")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)).save("photo.png")
    with closing(Site(server, tmp_path, "masks.safetensors")) as site:
        with visit(chromium, site) as page:
            assert {tab.inner_text() for tab in page.get_by_role("tab").all()} == {"Map"}
            page.locator("#map-drop input").set_input_files("photo.png")
            overlay = images_in(page, "#mapped")[0]
            mask = downloaded(page, "#mapped a[download='photo.png']")
            shares = [row.inner_text().split() for row in page.locator("#shares tr").all()]
            run(capsys, command_in(page, "map-command"))
        assert site.stop() == 130
    assert overlay == Path("segmented/photo-overlay.png").read_bytes()
    assert mask == Path("segmented/photo.png").read_bytes()
    with Image.open("segmented/photo.png") as image:
        classes = np.asarray(image)
    assert dict(shares) == {
        name: f"{(classes == number).mean():.1%}" for number, name in enumerate(("sky", "ground")) if number in classes
    }


def test_the_translation_of_an_image(
    server: Server, chromium: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    config = presets("translate")["tiny"].with_overrides(size=16, width=8, halvings=1, paired=True, noise=4)
    translator = build_model(config).eval()
    for weight in translator.parameters():  # an untrained one changes nothing
        weight.data.add_(0.2 * torch.randn_like(weight))
    save_backend(tmp_path / "t.safetensors", translator, {})
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)).save("photo.png")
    with closing(Site(server, tmp_path, "t.safetensors")) as site:
        with visit(chromium, site) as page:
            page.locator("#map-drop input").set_input_files("photo.png")
            (other,) = images_in(page, "#mapped")
            page.locator("#map-seed input").fill("7")
            page.locator("#map-seed input").press("Enter")
            page.wait_for_function("() => document.querySelector('#map-command textarea').value.includes('--seed 7')")
            (whole,) = images_in(page, "#mapped")
            assert whole != other
            page.locator("#strength input[type=number]").fill("0.5")
            page.locator("#strength input[type=number]").press("Tab")
            page.wait_for_function("() => document.querySelector('#map-command textarea').value.includes('0.5')")
            (half,) = images_in(page, "#mapped")
            assert downloaded(page, "#mapped a[download]") == half
            run(capsys, words := command_in(page, "map-command"))
        assert site.stop() == 130
    (path,) = Path().glob("translated*.png")
    assert half == path.read_bytes() and words[words.index("--strength") + 1] == "0.5"
    files = ("photo.png", path, io.BytesIO(whole))
    before, after, all_changed = (np.asarray(Image.open(file)).astype(int) for file in files)
    assert 0 < np.abs(after - before).mean() < np.abs(all_changed - before).mean()


def test_ctrl_c_ends_the_page_and_leaves_nothing(opened: Any, site: Site, temporary: Path) -> None:
    opened.close()
    assert site.stop() == 130
    assert not [path.name for path in temporary.iterdir() if path.name.startswith("imggen")]
    names = {path.name for path in site.folder.iterdir()} - {"cache", "data", "runs"}
    # What the tests and the commands that they ran wrote.
    by_tests = re.compile(r"\.(out|err)\d+|samples|secret.txt|\w+\.(png|gif|webp|csv)|filled-\d\.png")
    assert not [name for name in names if not by_tests.fullmatch(name)]
    # Gradio itself reports some of the bad requests.
    assert "imggen/engine" not in site.process.err and "Warning" not in site.process.err
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", site.port), timeout=1)
