"""Runs on several processes or a running scheduler, interrupted and gone on with, and with the real methods."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from colour_protocol import carry_out, protocol

from bitreplay.experiments.perform import Place
from bitreplay.experiments.plan import plan_runs
from bitreplay.experiments.results import read_results
from bitreplay.experiments.schedule import run_all
from bitreplay.training.workbench import TorchWorkbench


def test_workers_do_what_one_process_does_and_outlive_a_run_that_kills_its_worker(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed (extra train)")
    runs = [
        {"label": "a", "method": "mean", "seeds": 3},
        {"label": "b", "method": "mean", "seeds": 3, "settings": {"fails_on_seed": 1}},
        {"label": "c", "method": "mean", "seeds": 2, "settings": {"dies_on_seed": 1}},
    ]
    lines, failed = carry_out(protocol(runs=runs), pictures, tmp_path / "many", workers=2)
    assert sorted((line["label"], line["seed"]) for line in lines) == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 2), ("c", 0)]
    assert sorted((done.run.label, done.run.seed) for done in failed) == [("b", 1), ("c", 1)]
    errors = {done.run.label: done.error or "" for done in failed}
    assert errors["b"] == "RuntimeError: this method fails"
    assert "worker" in errors["c"].lower()
    alone, _ = carry_out(protocol(runs=runs[:1]), pictures, tmp_path / "one")
    same = ("key", "accuracy", "matrix", "final", "pictures")
    found = sorted((line for line in lines if line["label"] == "a"), key=lambda line: line["seed"])
    assert [{key: line[key] for key in same} for line in found] == [{key: line[key] for key in same} for line in alone]
    assert {note["process"] for line in lines for note in line["notes"]}.isdisjoint({os.getpid()})


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from bitreplay.training import workbench
from fake_training import FakeWorkbench
workbench.TorchWorkbench = FakeWorkbench
from bitreplay.cli import main
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_after_ctrl_c_the_same_command_goes_on(pictures: Path, tmp_path: Path, workers: int) -> None:
    if workers > 1:
        pytest.importorskip("distributed", reason="Dask is not installed (extra train)")
    program, plan = tmp_path / "program.py", tmp_path / "slow.toml"
    program.write_text(PROGRAM.format(tests=str(Path(__file__).parent)))
    text = (
        'name = "slow"\n[data]\nset = "folder"\nimage_size = 8\n[stream]\nkind = "ni"\ncount = 1\n[base]\nweights = "some"\n'
        '[[runs]]\nlabel = "quick"\nmethod = "mean"\nseeds = 2\n[[runs]]\nlabel = "slow"\nmethod = "mean"\nseeds = 2\nsettings = {{ seconds = {} }}\n'
    )
    plan.write_text(text.format(60))
    words = [sys.executable, program, "experiment", plan, "--data", pictures, "--out", tmp_path / "out", "--workers", str(workers)]
    # A session of its own: as at a terminal, Ctrl-C goes to the workers, too.
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        file = tmp_path / "out" / "results.jsonl"
        deadline = time.monotonic() + 60
        while not file.exists() or file.read_bytes().count(b"\n") < 2:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=30)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130
    assert err.splitlines()[-1] == f"interrupted: finished runs are in {file}; run the same command to continue"
    assert "Traceback" not in err
    before = file.read_bytes()
    assert [line["label"] for line in read_results(file)] == ["quick", "quick"]
    done = subprocess.run([*words, "--only", "quick"], capture_output=True, text=True, check=True)
    assert "2 of 2 runs" in done.stdout
    assert file.read_bytes() == before


def test_a_running_scheduler_is_used_where_one_is_named(pictures: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed (extra train)")
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        dashboard_address=None,
        host="127.0.0.1",
        local_directory=str(tmp_path / "dask"),
    ) as cluster:
        lines, failed = carry_out(protocol(), pictures, tmp_path / "out", scheduler=cluster.scheduler_address)
    assert (len(lines), failed) == (2, [])


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_the_real_bases_and_methods_fit(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra train)")
    runs = [
        {"label": "slda", "method": "slda"},
        {"label": "engine", "method": "engine", "settings": {"capacity": 8}},
    ]
    plan = protocol(data={"set": "folder", "image_size": 32}, base={"weights": "quicknet-32"}, runs=runs)
    place = Place(pictures, tmp_path, Path(__file__).parents[2] / "weights")
    assert run_all(plan, plan_runs(plan, split="test", weights=place.weights), place, TorchWorkbench(), threads=1) == []
    slda, engine = read_results(tmp_path)
    assert slda["accuracy"] == engine["accuracy"] == [0.5, 0.75, 1.0]
    assert engine["replay_bytes"] == 8 * engine["replay_row_bytes"] == 8 * 770
