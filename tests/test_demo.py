"""The demonstration, run once for all tests of this file, and the measures it prints."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the digits are scikit-learn's (extra demo)")
pytest.importorskip("matplotlib", reason="the plot needs matplotlib (extra demo)")

from rich.console import Console
from typer.testing import CliRunner

from bitreplay import Learner, metrics
from bitreplay.cli import app
from bitreplay.datasets.image_sets import read_folder
from bitreplay.demo import CAPACITY, DemoResult, load_digits, run_demo


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, str]:
    text = io.StringIO()
    result = run_demo(tmp_path_factory.mktemp("demo") / "an out", console=Console(file=text, width=80))
    return result, text.getvalue()


def test_digits_are_split_the_same_way_every_time() -> None:
    train, test = load_digits(32)
    assert train.images.shape == (1257, 32, 32, 3)
    assert test.images.shape == (540, 32, 32, 3)
    assert train.images.dtype == np.uint8
    share = np.bincount(test.labels) / np.bincount(np.concatenate([train.labels, test.labels]))
    assert np.abs(share - 0.3).max() < 0.01
    assert int(train.images.max()) == 255
    assert int(train.images.min()) == 0
    again = load_digits(32)
    assert all(np.array_equal(a.images, b.images) for a, b in zip((train, test), again, strict=True))


def test_saved_state_is_what_was_measured(shown: tuple[DemoResult, str]) -> None:
    result, _ = shown
    learner = Learner.load(result.state)
    _, test = load_digits(learner.image_size)
    right = np.array(learner.predict(test.images).names) == np.array(test.names)
    assert right.mean() == result.seen[-1]
    for j in range(5):
        assert right[np.isin(test.labels, (2 * j, 2 * j + 1))].mean() == result.matrix[-1, j]
    info = learner.info()
    assert info["lessons"] == 5
    assert info["replay_rows"] == CAPACITY


def test_accuracies_stand_the_comparison_with_joint_training(shown: tuple[DemoResult, str]) -> None:
    result, _ = shown
    assert result.joint >= 0.85
    assert result.seen[-1] >= result.joint - 0.03
    assert np.array_equal(result.matrix, np.tril(result.matrix))


def test_table_prints_what_was_measured(shown: tuple[DemoResult, str]) -> None:
    result, text = shown
    assert max(map(len, text.split("plot:")[0].splitlines())) <= 80
    for i in range(5):
        row = next(line for line in text.splitlines() if line.startswith(f"{2 * i} {2 * i + 1} "))
        numbers = row.split()[2:]
        printed = [f"{100 * a:.1f}" for a in (result.seen[i], *result.matrix[i, : i + 1])]
        assert numbers[: i + 2] == printed
        if i:
            assert numbers[i + 2] == f"{100 * metrics.forgetting(result.matrix[: i + 1, : i + 1]):.1f}"
        assert len(numbers) == i + 2 + bool(i) + 4
        assert all(float(number) >= 0 for number in numbers[-4:])
    assert row.split()[-1] == f"{result.state.stat().st_size / 1024:.1f}"
    joint = next(line for line in text.splitlines() if line.startswith("joint"))
    assert joint.split()[1] == f"{100 * result.joint:.1f}"


def test_plot_is_a_picture(shown: tuple[DemoResult, str]) -> None:
    from PIL import Image

    with Image.open(shown[0].plot) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 5


def test_examples_are_pictures_of_the_test_set(shown: tuple[DemoResult, str]) -> None:
    data = read_folder(shown[0].examples, 32)
    assert data.names == tuple("0123456789")
    test = {picture.tobytes() for picture in load_digits(32)[1].images}
    assert all(picture.tobytes() in test for picture in data.images)


def test_printed_command_runs(shown: tuple[DemoResult, str]) -> None:
    result, text = shown
    command = shlex.split(text.strip().splitlines()[-1])
    assert command == ["bitreplay", "predict", str(result.state), str(result.examples)]
    outcome = CliRunner().invoke(app, [*command[1:], "--json"])
    assert outcome.exit_code == 0, outcome.stderr
    learner = Learner.load(result.state)
    data = read_folder(result.examples, learner.image_size)
    names = learner.predict(data.images).names
    truth = [data.names[label] for label in data.labels]
    assert json.loads(outcome.stdout)["accuracy"] == np.mean([a == b for a, b in zip(names, truth, strict=True)])


def test_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept")
    outcome = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "out")])
    assert outcome.exit_code == 1
    assert outcome.stderr == f"error: {tmp_path / 'out'}: File exists\n"
    assert (tmp_path / "out").read_text() == "kept"


def test_forgetting_is_the_mean_loss_against_the_best_before() -> None:
    matrix = [[0.9, 0, 0], [0.95, 0.8, 0], [0.6, 0.85, 0.7]]
    assert metrics.forgetting(matrix) == pytest.approx(((0.95 - 0.6) + (0.8 - 0.85)) / 2)
    assert metrics.average_accuracy(matrix) == pytest.approx((0.6 + 0.85 + 0.7) / 3)
    assert metrics.forgetting([[0.4]]) == 0.0


@pytest.mark.parametrize("matrix", [[], [1.0], [[1.0, 0.0]]])
def test_accuracy_matrix_must_be_square(matrix: list[object]) -> None:
    with pytest.raises(ValueError, match="matrix: expected"):
        metrics.forgetting(matrix)


def test_confusion_counts_every_pair() -> None:
    truth, predicted = [0, 2, 2, 1], [0, 2, 1, 0]
    assert metrics.confusion_matrix(truth, predicted, 3).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]
    with pytest.raises(ValueError, match="predicted: expected class numbers 0 to 2, got 0 to 3"):
        metrics.confusion_matrix([0, 1], [3, 0], 3)
    with pytest.raises(ValueError, match="predicted: expected one class number for each"):
        metrics.confusion_matrix([0, 1], [0], 3)
