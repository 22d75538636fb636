"""The page in a real browser: three things taught and named, undone, forgotten, seen by two tabs, taught from the camera.

Needs Playwright and a Chromium (`chromium` in the path).  Screenshots go to the folder that BITREPLAY_SCREENSHOTS names.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with Playwright, which CI installs")
from PIL import Image  # noqa: E402
from real_pictures import DATA  # noqa: E402

CHROMIUM = shutil.which("chromium")
NAMES = {"ship": 8, "frog": 6, "truck": 9}  # numbers in CIFAR-10
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the page is tested with Debian's chromium, which CI installs")


def pictures() -> dict[str, list[bytes]]:
    """24 pictures each of three things: CIFAR-10's where the data set is there, else coloured noise."""
    if (DATA / "cifar10" / "test.parquet").exists():
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(DATA / "cifar10" / "test.parquet").slice(0, 1000)
        labels = np.array(table["label"].to_pylist())
        files = [entry["bytes"] for entry in table["image"].to_pylist()]
        images = {
            name: [np.asarray(Image.open(io.BytesIO(files[i]))) for i in np.flatnonzero(labels == c)[:24]] for name, c in NAMES.items()
        }
    else:
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 80, (24, 32, 32, 3)) + np.array([160, 0, 0])
        images = {name: list(np.roll(noise, i, -1).astype(np.uint8)) for i, name in enumerate(NAMES)}
    found: dict[str, list[bytes]] = {}
    for name, values in images.items():
        for value in values:
            file = io.BytesIO()
            Image.fromarray(value).resize((160, 160)).save(file, "JPEG", quality=95)
            found.setdefault(name, []).append(file.getvalue())
    return found


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "bitreplay", "serve", str(tmp_path / "x.state"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        found = re.search(r"http://localhost:\d+", child.stdout.readline())
        assert found
        yield found[0]
        child.terminate()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    camera = tmp_path / "camera.mjpeg"
    camera.write_bytes(b"".join(pictures()["frog"][:8]))
    flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={camera}"]
    with playwright.sync_playwright() as play:
        made = play.chromium.launch(executable_path=CHROMIUM, args=[*flags, "--no-sandbox"])
        yield made
        made.close()


def shot(page: Any, name: str) -> None:
    if folder := os.environ.get("BITREPLAY_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def choose(page: Any, contents: list[bytes]) -> None:
    files = [{"name": f"{i}.jpg", "mimeType": "image/jpeg", "buffer": content} for i, content in enumerate(contents)]
    page.set_input_files("#files", files)


def known(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#classes tbody th").all_text_contents()]


def test_a_person_teaches_it(address: str, browser: Any) -> None:
    expect = playwright.expect
    shown = pictures()
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(address)
    expect(page.locator("#status")).to_have_text("Ready. It knows nothing yet.")
    shot(page, "1-empty")
    for name in NAMES:
        choose(page, shown[name][:16])
        page.fill("#name", name)
        page.click("#send")
        expect(page.locator("#burst")).to_contain_text(f"Learned 16 pictures of {name}", timeout=60_000)
    assert known(page) == list(NAMES)
    right = 0
    for name in NAMES:
        for content in shown[name][16:20]:
            page.locator("#answer").evaluate("node => node.textContent = ''")
            choose(page, [content])
            expect(page.locator("#answer")).not_to_be_empty()
            right += page.text_content("#answer") == name
    assert right >= 9, f"{right} of 12 unseen pictures were named"
    shot(page, "2-taught")

    other = context.new_page()
    other.goto(address)
    expect(other.locator("#classes tbody tr")).to_have_count(3)
    page.click("#undo")
    expect(page.locator("#classes tbody tr")).to_have_count(2)
    expect(other.locator("#classes tbody tr")).to_have_count(2, timeout=5000)
    page.on("dialog", lambda dialog: dialog.accept("a boat") if dialog.type == "prompt" else dialog.accept())
    page.set_input_files("#upload", {"name": "bad.state", "mimeType": "application/octet-stream", "buffer": b"no state"})
    expect(page.locator("#trouble")).to_contain_text("expected a bitreplay state")
    page.wait_for_timeout(2500)
    expect(page.locator("#trouble")).to_contain_text("expected a bitreplay state")  # it stays
    problems.clear()  # the browser's word for the refusal
    page.get_by_role("button", name="Forget frog").focus()
    page.get_by_role("button", name="Rename ship").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#classes tbody")).to_contain_text("a boat")
    expect(page.locator("#trouble")).to_be_empty()
    assert page.evaluate("document.activeElement !== document.body")
    page.get_by_role("button", name="Forget a boat").click()
    expect(page.locator("#classes tbody tr")).to_have_count(1)
    expect(page.locator("#undo")).to_be_disabled()
    page.reload()
    expect(page.locator("#classes tbody tr")).to_have_count(1)
    assert known(page) == ["frog"]

    page.click("#camera")
    expect(page.locator("#answer")).to_have_text("frog", timeout=20_000)
    page.click("#hold")  # without a name: it asks for one
    expect(page.locator("#trouble")).to_contain_text("type its name")
    page.fill("#name", "held thing")
    page.locator("#hold").focus()
    page.keyboard.down("Space")
    expect(page.locator("#burst")).to_contain_text(re.compile("^([5-9]|1[0-9]) pictures"), timeout=20_000)
    page.keyboard.up("Space")
    expect(page.locator("#burst")).to_contain_text("pictures of held thing", timeout=60_000)
    assert known(page) == ["frog", "held thing"]
    shot(page, "3-camera")
    page.click("#camera")

    phone = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark", device_scale_factor=2).new_page()
    phone.goto(address)
    expect(phone.locator("#classes tbody tr")).to_have_count(2)
    assert phone.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    shot(phone, "4-phone-dark")
    assert problems == []


def test_it_says_when_the_device_is_gone(tmp_path: Path, browser: Any) -> None:
    command = [sys.executable, "-m", "bitreplay", "serve", str(tmp_path / "x.state"), "--port", "0"]
    page = browser.new_page()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        found = re.search(r"http://localhost:\d+", child.stdout.readline())
        assert found
        page.goto(found[0])
        playwright.expect(page.locator("#status")).to_have_text("Ready. It knows nothing yet.")
        child.terminate()
        child.wait(20)
    playwright.expect(page.locator("#trouble")).to_contain_text("does not answer", timeout=5000)
    shot(page, "5-gone")


def test_from_another_machine_with_token_and_the_devices_camera(tmp_path: Path, browser: Any) -> None:
    expect = playwright.expect
    cv2 = pytest.importorskip("cv2", reason="the device's camera needs OpenCV (extra camera)")
    shown = pictures()
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 160))
    for content in shown["ship"][:8]:
        writer.write(np.asarray(Image.open(io.BytesIO(content)))[:, :, ::-1].copy())
    writer.release()
    command = [sys.executable, "-m", "bitreplay", "serve", str(tmp_path / "x.state"), "--port", "0", "--host", "0.0.0.0", "--camera", film]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "home")}
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        found = re.search(r"(https://\S+)/#(\S+)", child.stdout.readline())
        assert found
        context = browser.new_context(viewport={"width": 1100, "height": 900}, ignore_https_errors=True, accept_downloads=True)
        page = context.new_page()
        page.goto(f"{found[1]}/#{found[2]}")
        expect(page.locator("#status")).to_have_text("Ready. It knows nothing yet.")
        assert "#" not in page.url
        expect(page.locator("#enter")).to_be_hidden()
        page.click("#eye")
        page.fill("#name", "ship")
        page.locator("#hold").focus()
        page.keyboard.down("Space")
        expect(page.locator("#burst")).to_contain_text(re.compile("^([6-9]|1[0-9]) pictures"), timeout=20_000)
        page.keyboard.up("Space")
        expect(page.locator("#burst")).to_contain_text("pictures of ship", timeout=60_000)
        choose(page, shown["truck"][:12])
        page.fill("#name", "truck")
        page.click("#send")
        expect(page.locator("#burst")).to_contain_text("Learned 12 pictures of truck", timeout=60_000)
        page.click("#eye")
        expect(page.locator("#answer")).to_have_text("ship", timeout=20_000)
        shot(page, "6-device-camera")
        page.click("#eye")
        page.check("#unsure")
        with page.expect_download() as download:
            page.click("#download")
        kept = tmp_path / "kept.state"
        download.value.save_as(kept)
        assert kept.read_bytes() == (tmp_path / "x.state").read_bytes()
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Forget truck").click()
        expect(page.locator("#classes tbody tr")).to_have_count(1)
        page.set_input_files("#merge", kept)
        expect(page.locator("#classes tbody tr")).to_have_count(2, timeout=20_000)
        page.reload()
        expect(page.locator("#classes tbody tr")).to_have_count(2)

        stranger = browser.new_context(ignore_https_errors=True).new_page()
        stranger.goto(found[1])
        expect(stranger.locator("#enter")).to_be_visible()
        expect(stranger.locator("#trouble")).to_contain_text("asks for its token")
        expect(stranger.locator("#look")).to_be_hidden()
        shot(stranger, "7-token")
        stranger.fill("#token", "not the token of it")
        stranger.keyboard.press("Enter")
        expect(stranger.locator("#trouble")).to_contain_text("not the token that the device printed")
        stranger.fill("#token", found[2])
        stranger.keyboard.press("Enter")
        expect(stranger.locator("#classes tbody tr")).to_have_count(2)
        expect(stranger.locator("#enter")).to_be_hidden()
        child.terminate()
