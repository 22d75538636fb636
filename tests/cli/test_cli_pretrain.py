"""The commands that train a backbone: pretrain, soft-labels, export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from colour_lessons import run, write_lesson


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # pretrain maps its cache read-only
def test_pretrain_continue_export(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra train)")
    pytest.importorskip("lightning_fabric", reason="Lightning Fabric is not installed (extra train)")
    data, out, file = tmp_path / "data", tmp_path / "out", tmp_path / "tiny.model"
    write_lesson(data / "train", ["blue", "red"])
    write_lesson(data / "valid", ["blue", "red"], first_seed=1000)
    shape = ("--widths", "8,16", "--blocks", "1,1", "--tail-blocks", 1)
    recipe = ("--batch-size", 8, "--precision", "32-true", "--warmup-steps", 1, "--epochs", 2, "--cut-start", 1, "--cut-ramp", 0)
    shown, _ = run("pretrain", data, out, *shape, *recipe, "--until", 1, "--threads", 1)
    assert "widths=(8, 16)" in shown
    assert "epochs=2" in shown
    assert (out / "checkpoint.pt").is_file()
    _, err = run("pretrain", data, out)
    assert f"continues from {out / 'checkpoint.pt'}" in err
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2]

    (tmp_path / "card.json").write_text('{"terms": "none"}')
    words = ("export", out / "checkpoint.pt", file, "--data", data, "--name", "tiny", "--cache", out / "cache")
    figures = json.loads(run(*words, "--card", tmp_path / "card.json", "--json")[0])
    card = json.loads(run("info", file, "--json")[0])["card"]
    assert figures
    assert {name: card[name] for name in figures} == figures
    assert (card["name"], card["terms"]) == ("tiny", "none")

    (tmp_path / "card.json").write_text("[")
    assert "expected JSON" in run(*words, "--card", tmp_path / "card.json", code=1)[1]
    assert "expected" in run("pretrain", data, tmp_path / "b", "--widths", "8,x", code=2)[1]
    assert run("pretrain", data, tmp_path / "b", "--widths", "8", "--blocks", "1,2", code=1)[1].startswith("error: blocks: expected")


def test_soft_labels_and_pretrain_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra train)")
    pytest.importorskip("lightning_fabric", reason="Lightning Fabric is not installed (extra train)")
    data, labels = tmp_path / "data", tmp_path / "colours.labels"
    write_lesson(data / "train", ["blue", "red"])
    write_lesson(data / "valid", ["red"], first_seed=1000)  # matched by name: "blue" has no validation pictures
    shape = ("--widths", "8,16", "--blocks", "1,1", "--tail-blocks", 1, "--threads", 1)
    recipe = ("--batch-size", 8, "--precision", "32-true", "--warmup-steps", 1, "--epochs", 2, "--cut-start", 0, "--cut-ramp", 0)
    teacher = tmp_path / "teacher"
    run("pretrain", data, teacher, *shape, *recipe, "--family", "residual", "--cut", "none")
    shown, _ = run("soft-labels", data, labels, "--teacher", teacher / "checkpoint.pt", "--crops", 2, "--kept", 2)
    assert shown.startswith(f"{labels}: 2 crops of 24 pictures, answered by residual of 32 pixels")
    before = labels.read_bytes()
    run("soft-labels", data, labels, "--teacher", teacher / "checkpoint.pt", "--crops", 2, "--kept", 2)  # nothing is left to do
    assert labels.read_bytes() == before
    for words, message in (
        (
            ("--crops", 3, "--kept", 2),
            f"error: {labels}: was begun with different crops; choose another file, or repeat the original settings",
        ),
        (("--crops", 2, "--kept", 3), "error: kept: expected 1 to 2, the teacher's classes, got 3"),
    ):
        assert run("soft-labels", data, labels, "--teacher", teacher / "checkpoint.pt", *words, code=1)[1].strip() == message
    assert "which is not a file" in run("soft-labels", data, labels, "--teacher", "resnet", code=1)[1]
    assert (
        "the checkpoint fixes the image size"
        in run("soft-labels", data, labels, "--teacher", teacher / "checkpoint.pt", "--image-size", 64, code=2)[1]
    )

    student = ("pretrain", data, tmp_path / "student", *shape, *recipe, "--soft-labels", labels)
    shown, _ = run(*student, "--until", 1, "--checkpoint-to", tmp_path / "weights" / "student")
    assert "soft_share=0.5" in shown
    run(*student)
    log = [json.loads(line) for line in (tmp_path / "student" / "log.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["crops"]) for line in log] == [(1, 2), (2, 2)]
    assert all(0 <= line["valid_top1"] <= 1 for line in log)
    elsewhere = ("pretrain", data, tmp_path / "elsewhere", "--resume", tmp_path / "weights" / "student", "--threads", 1)
    assert "soft_labels: expected a file" in run(*elsewhere, code=1)[1]
    run(*elsewhere, "--soft-labels", labels)
    assert len((tmp_path / "elsewhere" / "log.jsonl").read_text().splitlines()) == 2
    assert "widths: " in run("pretrain", data, tmp_path / "student", "--widths", "8,24", code=1)[1]

    from bitreplay.training import pretrain as module

    monkeypatch.setattr(module, "save_checkpoint", interrupt)
    out = tmp_path / "interrupted"
    assert "run the same command to start again; there was no checkpoint yet" in run("pretrain", data, out, *shape, *recipe, code=130)[1]
    for name in ("model.pt", "weights/none"):
        assert run("pretrain", data, tmp_path / "x", "--resume", tmp_path / name, code=1)[1].startswith("error: ")


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt
