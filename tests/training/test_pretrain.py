"""A run of pre-training: its rate, its pictures, and how it goes on after whatever interrupted it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training is tested where torch is installed (extra train)")
from PIL import Image  # noqa: E402
from tiny_runs import CONFIG, FLOATS, RECIPE, labelled, same  # noqa: E402

from bitreplay.datasets.image_sets import cached_split  # noqa: E402
from bitreplay.training.checkpoint import CHECKPOINT, load_checkpoint  # noqa: E402
from bitreplay.training.export import export_model  # noqa: E402
from bitreplay.training.pretrain import pretrain  # noqa: E402
from bitreplay.training.recipe import Recipe  # noqa: E402
from bitreplay.training.weights import load_weights  # noqa: E402


def test_an_interrupted_run_continues_with_the_same_result(tmp_path: Path, pictures: Path) -> None:
    cache = tmp_path / "cache"
    whole = pretrain(pictures, tmp_path / "whole", CONFIG, RECIPE, cache=cache)
    pretrain(pictures, tmp_path / "parts", CONFIG, RECIPE, until=1, cache=cache)
    parts = pretrain(pictures, tmp_path / "parts", CONFIG, RECIPE, cache=cache)
    assert parts["epoch"] == whole["epoch"] == 3
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, parts["model"][name]), name
    assert torch.equal(load_checkpoint(tmp_path / "parts" / CHECKPOINT)["model"]["head.weight"], whole["model"]["head.weight"])


def test_a_branch_may_drop_the_cut_only_before_it_began(tmp_path: Path, pictures: Path) -> None:
    cache = tmp_path / "cache"
    pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, until=1, cache=cache)
    early = tmp_path / "early.pt"
    early.write_bytes((tmp_path / "run" / CHECKPOINT).read_bytes())
    none = pretrain(pictures, tmp_path / "none", replace(CONFIG, cut="none"), RECIPE, resume=early, cache=cache)
    assert none["config"]["cut"] == "none"
    pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, cache=cache)
    with pytest.raises(ValueError, match="branch from one before its cut_start"):
        pretrain(pictures, tmp_path / "late", replace(CONFIG, cut="none"), RECIPE, resume=tmp_path / "run" / CHECKPOINT, cache=cache)


def test_the_rate_warms_up_stays_and_cools_down() -> None:
    recipe = Recipe(epochs=10, learning_rate=1.0, warmup_steps=10, cooldown=0.5)
    assert [recipe.rate(step, 100, step) for step in (0, 4, 9, 10, 50)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    assert recipe.rate(75, 100, 75) == pytest.approx(0.5)
    assert recipe.rate(99, 100, 99) < 0.001
    assert recipe.rate(60, 100, 0) == 0.1  # moments that begin anew
    assert [Recipe(cut_start=2, cut_ramp=2).strength(at) for at in (1, 2, 3, 4, 9)] == [0, 0, 0.5, 1, 1]
    assert [Recipe(cut_start=2, cut_ramp=0).strength(at) for at in (1.9, 2)] == [0, 1]


def test_a_killed_run_goes_on_within_the_epoch_bit_for_bit(tmp_path: Path, pictures: Path) -> None:
    cache = tmp_path / "cache"
    # The process kills itself behind the n-th checkpoint that it writes; each epoch has six steps.
    script = (
        "import os, signal, sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from bitreplay.training import pretrain as module\n"
        "from bitreplay.training.recipe import Recipe\n"
        "from bitreplay.training.zoo.network import NetworkConfig\n"
        "save, left = module.save_checkpoint, int(sys.argv[4])\n"
        "def killing(*args):\n"
        "    global left\n"
        "    save(*args)\n"
        "    left -= 1\n"
        "    if left == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "module.save_checkpoint = killing\n"
        f"config, recipe = {CONFIG!r}, {RECIPE!r}\n"
        "module.pretrain(Path(sys.argv[1]), Path(sys.argv[2]), config, recipe, cache=Path(sys.argv[3]), save_seconds=0)\n"
    )
    whole = pretrain(pictures, tmp_path / "whole", CONFIG, RECIPE, cache=cache)
    out = tmp_path / "killed"
    for checkpoints, moment in ((4, (0, 4)), (6, (1, 4))):
        done = subprocess.run([sys.executable, "-c", script, str(pictures), str(out), str(cache), str(checkpoints)], check=False)
        assert done.returncode == -signal.SIGKILL
        state = load_checkpoint(out / CHECKPOINT)
        assert (state["epoch"], state["step"]) == moment
    resumed = pretrain(pictures, out, CONFIG, RECIPE, cache=cache)
    assert same(whole, resumed)
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (tmp_path / "whole", out)]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, until=1, cache=cache)
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, cache=cache)
    assert caught.value.filename == str(tmp_path / "run" / CHECKPOINT)
    monkeypatch.setattr(os, "posix_fallocate", lambda descriptor, start, size: full(descriptor))
    with pytest.raises(OSError, match="No space left") as caught:
        pretrain(pictures, tmp_path / "other", CONFIG, RECIPE, cache=tmp_path / "new")
    assert caught.value.filename.endswith("images.npy")
    assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()] == ["lock"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [CHECKPOINT, "log.jsonl"]
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before


def test_validation_pictures_are_matched_by_name(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(pictures, folder)
    shutil.rmtree(folder / "valid" / "blue")  # the first by name: by position every label would be wrong
    cache = tmp_path / "cache"
    pretrain(folder, tmp_path / "run", CONFIG, replace(RECIPE, epochs=8), cache=cache)
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["valid_top1"] > 0.8
    assert export_model(tmp_path / "run" / CHECKPOINT, tmp_path / "x.model", data=folder, name="x", cache=cache)["integer_top1"] > 0.8
    (folder / "valid" / "green").rename(folder / "valid" / "gruen")
    for call in (
        lambda: pretrain(folder, tmp_path / "again", CONFIG, RECIPE, cache=cache),
        lambda: export_model(tmp_path / "run" / CHECKPOINT, tmp_path / "y.model", data=folder, name="y", cache=cache),
    ):
        with pytest.raises(ValueError, match="validation pictures: expected the classes of the training pictures, got 'gruen' as well"):
            call()


def test_pictures_are_kept_at_most_at_their_own_size_and_read_again_when_they_change(tmp_path: Path, pictures: Path) -> None:
    folder, cache = tmp_path / "set", tmp_path / "cache"
    shutil.copytree(pictures, folder)
    for most, side in ((128, 32), (24, 24)):
        data = cached_split(folder, "train", most, cache, enlarge=False)
        assert data is not None
        assert data.images.shape == (60, side, side, 3)
    again = cached_split(folder, "train", 24, cache, enlarge=False)
    assert again is not None
    assert again.digest == data.digest
    Image.new("RGB", (32, 32), "white").save(folder / "train" / "red" / "0.png")
    (folder / "train" / "yellow").mkdir()
    Image.new("RGB", (32, 32), "yellow").save(folder / "train" / "yellow" / "0.png")
    changed = cached_split(folder, "train", 24, cache, enlarge=False)
    assert changed is not None
    assert changed.names == ("blue", "green", "red", "yellow")
    assert changed.images[40].min() == 255
    assert changed.digest != data.digest


def test_a_branch_from_the_middle_of_an_epoch(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitreplay.training import pretrain as module

    cache = tmp_path / "cache"
    pretrain(pictures, tmp_path / "teacher", FLOATS, replace(RECIPE, epochs=1), cache=cache)
    labels = labelled(pictures, tmp_path / "teacher" / CHECKPOINT, tmp_path / "x.labels", cache)
    save, left = module.save_checkpoint, 9  # of a run that is interrupted in its second epoch, behind step 3

    def interrupt(path: Path, state: dict[str, Any]) -> None:
        nonlocal left
        save(path, state)
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, cache=cache, save_seconds=0)
    middle = tmp_path / "run" / CHECKPOINT
    assert (load_checkpoint(middle)["epoch"], load_checkpoint(middle)["step"]) == (1, 3)
    # Another batch or soft labels: the epoch begins anew, with a rate above 0 throughout.
    rates: list[float] = []
    rate = Recipe.rate
    monkeypatch.setattr(Recipe, "rate", lambda self, *args: rates.append(rate(self, *args)) or rates[-1])  # type: ignore[func-returns-value]
    for name, recipe, soft, steps in (
        ("large", replace(RECIPE, batch_size=30), None, 4),
        ("soft", replace(RECIPE, soft_share=0.5), labels, 12),
        ("same", RECIPE, None, 9),
    ):
        rates.clear()
        done = pretrain(pictures, tmp_path / name, CONFIG, recipe, resume=middle, soft_labels=soft, cache=cache)
        assert (done["epoch"], len(rates)) == (3, steps)
        assert min(rates) > 0
    with pytest.raises(ValueError, match=r"epochs: expected more than the 1 that .* has been trained for, got 1"):
        pretrain(pictures, tmp_path / "nothing", CONFIG, RECIPE, resume=middle, until=1, cache=cache)
    with pytest.raises(ValueError, match="init: expected no weights to start from beside a run to resume"):
        pretrain(pictures, tmp_path / "both", CONFIG, RECIPE, resume=middle, init=tmp_path / "x", cache=cache)
    early = replace(RECIPE, cut_start=1)  # the cut began within this very epoch
    assert load_checkpoint(middle)["recipe"]["cut_start"] == early.cut_start
    with pytest.raises(ValueError, match="branch from one before its cut_start"):
        pretrain(pictures, tmp_path / "none", replace(CONFIG, cut="none"), RECIPE, resume=middle, cache=cache)


def test_a_run_goes_on_with_its_own_pictures_precision_and_labels_alone(tmp_path: Path, pictures: Path) -> None:
    cache = tmp_path / "cache"
    place = tmp_path / "weights" / "run"
    pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, until=1, cache=cache, checkpoint_to=place)
    other = tmp_path / "set"
    shutil.copytree(pictures, other)
    Image.new("RGB", (32, 32), "red").save(other / "train" / "red" / "more.png")
    with pytest.raises(ValueError, match="the run was trained on other pictures"):
        pretrain(other, tmp_path / "run", CONFIG, RECIPE)
    half = replace(RECIPE, precision="bf16-mixed")
    results = [
        pretrain(pictures, tmp_path / name, CONFIG, recipe, resume=place, cache=cache) for name, recipe in (("a", RECIPE), ("b", half))
    ]
    assert results[1]["recipe"]["precision"] == "32-true"
    assert same(*results)


def test_the_head_is_kept_where_the_classes_are_as_many(tmp_path: Path, pictures: Path) -> None:
    cache = tmp_path / "cache"
    place = tmp_path / "weights" / "run"
    pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, cache=cache, checkpoint_to=place)
    _, tensors, _ = load_weights(place)
    still = replace(RECIPE, epochs=1, learning_rate=1e-9, cut_start=0, cut_ramp=0)
    kept = pretrain(pictures, tmp_path / "kept", CONFIG, still, init=place, cache=cache)  # CONFIG says 200 classes; the pictures have 3
    assert torch.allclose(kept["model"]["head.weight"], tensors["head.weight"], atol=1e-6)
    fewer = tmp_path / "fewer"
    shutil.copytree(pictures, fewer)
    for split in ("train", "valid"):
        shutil.rmtree(fewer / split / "red")
    assert pretrain(fewer, tmp_path / "new", CONFIG, still, init=place)["model"]["head.weight"].shape == (2, 16)
