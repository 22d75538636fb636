"""The core's reader and the reference reader say the same of files that were changed below their digests; fuzz_formats.py does it without end."""

from __future__ import annotations

import random
from pathlib import Path

import fuzz_formats
import pytest

from bitreplay import FormatError, model
from bitreplay.disk import label_of
from bitreplay.state import parse_state


def test_both_readers_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_FOLDER", model._FOLDER)  # put back afterwards
    states = fuzz_formats.seeds(tmp_path)
    rng = random.Random(1)
    sound = refused = 0
    while sound + refused < 400:
        try:
            content = fuzz_formats.change_file(rng.choice(states), "state", rng)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            continue  # what was tried is no file
        expected = fuzz_formats.reference_verdict(content)
        if expected is None:
            sound += 1
            parse_state(content, None, "s")
        else:
            refused += 1
            with pytest.raises(FormatError):
                parse_state(content, None, "s")
    assert sound > 20
    assert refused > 200


@pytest.mark.parametrize(("content", "kind"), [(b"", ""), (b"P6 1 1 255 " * 9, ""), (b"\xff" * 99, ""), (None, "model")])
def test_what_a_file_is_follows_from_its_beginning(tmp_path: Path, content: bytes | None, kind: str) -> None:
    path = model._FOLDER / f"{model.SHIPPED}.model" if content is None else tmp_path / "f"
    if content is not None:
        path.write_bytes(content)
    assert label_of(path) == (kind, model.Model.from_package().digest if kind else "")
