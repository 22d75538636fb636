"""The commands that bring a network in: import, fetch."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
pytest.importorskip("torch", reason="imports need torch (extra import)")
pytest.importorskip("tflite", reason="imports need tflite (extra import)")
from colour_lessons import run, write_lesson
from tflite_file import File, small_network

from bitreplay import Learner, Model
from bitreplay.training.importers import published


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.tflite"
    path.write_bytes(small_network().content())
    return path


def test_import_calibrate_learn(file: Path, tmp_path: Path) -> None:
    lesson = write_lesson(tmp_path / "lesson", ["blue", "green", "red"])
    (tmp_path / "card.json").write_text('{"licence": "MIT", "source": "here"}')
    out = tmp_path / "small.model"
    words = ("import", file, out, "--name", "mine", "--card", tmp_path / "card.json", "--mean", "0.5,0.5,0.5", "--spread", "0.5,0.5,0.5")
    shown, err = run(*words, "--calibrate", lesson, "--threads", 1)
    assert f"{out}: mine, LCE or TensorFlow Lite" in shown
    assert "3 concat" not in shown
    assert "1 concat" in shown
    assert "64 bytes a row" in shown
    assert "card: licence MIT, source here" in shown
    assert err == ""
    card = Model.load(out).card
    assert card["imported"]["calibration"] == 36
    assert card["pictures"]["mean"] == [0.5, 0.5, 0.5]
    run("new", tmp_path / "a.state", "--model", out, "--capacity", 30)
    run("learn", tmp_path / "a.state", lesson, "--model", out)
    assert sorted(Learner.load(tmp_path / "a.state", model=out).names) == ["blue", "green", "red"]
    found = json.loads(run(*words, "--calibrate", lesson, "--whitening", "--json")[0])
    assert found["operations"]["concat"] == 1
    assert found["figures"]["same_answers"] > 0.8


def test_without_pictures_or_licence_it_says_what_that_costs(file: Path, tmp_path: Path) -> None:
    _, err = run("import", file, tmp_path / "x.model")
    assert "note: calibrated on drawn pictures, which costs accuracy" in err
    assert "note: the file tells no licence" in err
    assert "note: the file does not tell how pixels are scaled" in err


def test_what_cannot_be_imported(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.model"
    other = tmp_path / "x.bin"
    other.write_bytes(b"something else")
    assert "expected a file of LCE or TensorFlow Lite" in run("import", other, out, code=1)[1]
    strange = File()
    strange.inputs = [strange.tensor((1, 16, 16, 3))]
    strange.add("TANH", strange.inputs, (1, 16, 16, 3), name="odd")
    other.write_bytes(strange.content())
    assert f"error: {other}: operation 0, TANH 'odd': not understood" in run("import", other, out, code=1)[1]
    assert (
        f"{tmp_path / 'none'}: expected a folder with calibration pictures"
        in run("import", file, out, "--calibrate", tmp_path / "none", code=1)[1]
    )
    assert "expected calibration pictures of several classes" in run("import", file, out, "--whitening", code=1)[1]
    assert "expected three numbers" in run("import", file, out, "--mean", "1,2", code=2)[1]
    assert "expected numbers above 0" in run("import", file, out, "--spread", "1,0,1", code=2)[1]
    assert "image_size: expected 16" in run("import", file, out, "--image-size", 64, code=1)[1]
    assert not out.exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "releases")) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def test_fetch_downloads_checks_and_imports(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pooch", reason="downloads need pooch (extra import)")
    pytest.importorskip("h5py", reason="imports need h5py (extra import)")
    from keras_file import quicknet, save

    release = tmp_path / "releases" / "quicknet-v1.0" / "quicknet_weights.h5"
    release.parent.mkdir(parents=True)
    sound = replace(published.named("quicknet"), sha256=hashlib.sha256(save(release, quicknet())).hexdigest())
    monkeypatch.setattr(published, "PUBLISHED", (sound,))
    out = tmp_path / "q.model"
    words = ("fetch", "quicknet", out, "--image-size", 32, "--mirror", server, "--cache")
    shown, err = run(*words, tmp_path / "cache")
    assert f"{out}: quicknet, QuickNet" in shown
    assert "card: licence Apache-2.0, source https://github.com/larq/zoo/releases/download/quicknet-v1.0/quicknet_weights.h5" in shown
    assert "published top-1 63.3 %" in err
    assert Model.load(out).card["published"] == {"top1": 63.3, "top5": 84.6}
    release.write_bytes(b"another file")
    run(*words, tmp_path / "cache")  # kept
    out.unlink()
    changed = run(*words, tmp_path / "other", code=1)[1]
    assert f"its SHA-256 is not {sound.sha256}" in changed
    assert "bitreplay import FILE OUT" in changed
    assert not out.exists()


def test_fetch_offline_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("pooch", reason="downloads need pooch (extra import)")
    err = run("fetch", "quicknet", tmp_path / "q.model", "--cache", tmp_path / "cache", "--mirror", "http://127.0.0.1:9", code=1)[1]
    assert "http://127.0.0.1:9/quicknet-v1.0/quicknet_weights.h5: cannot be downloaded" in err
    assert "bitreplay import FILE OUT" in err
    assert "expected one of quicknet, quicknet-small, quicknet-large, birealnet, got 'x'" in run("fetch", "x", code=1)[1]
