"""Coverage-guided fuzzing of state files and the models in them: FormatError, or a learner that predicts, saves and loads the same.

    pip install -c constraints.txt atheris
    python tests/fuzz_formats.py [--seconds 600] [INPUT ...]

Inputs are mutated below their digest: a JSON value of a header, a network or the settings, a tensor's values or rows, in the state or in the
model that it carries; then both digests are made to fit.  The core's verdict on every input, sound or not, must be that of the reference reader
(tests/reference/files.py).  Reading an input may take at most twice its bytes and CONSTANT more, as counted by
tracemalloc (Python, numpy) and the engine's own meter; the replay memory that a state declares comes on top.  No input may take 5 seconds.
What breaks a rule is written to `crash-…` or `timeout-…`; give it as an argument to run it again.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import inspect
import json
import random
import re
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import graph_model
import numpy as np
import tiny_model
from new_learner import new_learner
from reference.files import SoundModel, check_model, check_state, pack, unpack
from safetensors.numpy import load
from tail_model import make

from bitreplay import Cancelled, FormatError, Learner, _engine, model
from bitreplay.model import write_model
from bitreplay.state import parse_state

CONSTANT = 4 << 20  # parsed JSON: 30 times the 64 KiB of an input; the engine pads at most 256 operations to whole vectors
LARGEST = 64 << 10
EXPENSIVE = 32 << 20  # bytes of a declared replay memory, or of one image's activations, that a run does not allocate
NO_DIGEST = "0" * 64
MOST = "bytes beyond twice the input, at most"
PARSERS = {"reference.files"}  # what coverage is seen of: it refuses what the core refuses
VALUES = [None, True, False, 0, 1, -1, 2, 3, 7, 8, 16, 255, 256, 65535, 2**24, 2**31 - 1, 2**31, 2**63, 2**64, 10**400, 0.5, float("nan"),
          float("inf"), "", "\ud800", "\x1b[2J", "a" * 100, [], {}, [[[[]]]], "conv", "block", "down", "pool", "binary", "affine", "add", "concat", "max_pool", [0], [1, 2], "lda", "cwr", "U8", "I32", "I64", "F32"]  # fmt: skip
seen: Counter[str] = Counter()
sound_seeds: list[bytes] = []
shipped: dict[str, SoundModel] = {}


def seeds(folder: Path) -> list[bytes]:
    """Small states of every shape: both heads, no class, several views, no tail, tails of all widths, a `down`, graphs, a shipped model."""
    quick: dict[str, Any] = {"capacity": 3, "threads": 1}
    shape: dict[str, Any] = {"image_size": 8, "widths": (4, 6), "blocks": (1, 0), "stem_strides": (1, 2)}
    plain = write_model(folder / "plain.model", *tiny_model.make_model(1, **shape), {"name": "plain"})
    down = write_model(folder / "down.model", *tiny_model.make_model(1, **shape, down={"threshold": True, "activation": True}), {})
    tail, _, _ = make(folder, "birealnet", channels=6, image_size=8)
    (folder / "models").mkdir()
    (folder / "models" / "tiny.model").write_bytes((folder / "plain.model").read_bytes())
    model._FOLDER = folder / "models"
    sound = check_model((folder / "plain.model").read_bytes(), "tiny")
    shipped[sound.digest] = sound
    found = [new_learner(plain, **quick, head=head).to_bytes() for head in ("lda", "cwr")]
    graphs = [
        write_model(folder / f"graph{i}.model", *graph_model.make_graph(i, image_size=8, operations=6, cut=i % 2 > 0), {}) for i in range(4)
    ]
    for taught, more in [
        *[(graph, {}) for graph in graphs], (graphs[0], {"views": 2}), (plain, {}), (plain, {"head": "cwr"}), (plain, {"views": 2}), (down, {}), ("tiny", {}), (tail, {"train_blocks": 1, "head": "cwr"}),
        *[(tail, {"train_blocks": 1, "weight_bits": b}) for b in (1, 8, 16)],
    ]:  # fmt: skip
        learner = new_learner(taught, **quick, **more)
        for names in ("ab", "bc"):
            learner.learn(tiny_model.random_images(1, 2, learner.image_size), list(names))
        found.append(learner.to_bytes())
    return found


# -- the mutator ----------------------------------------------------------------------------------------------------------------


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [place for key, item in items for place in [(value, key), *places(item)]]


def change_json(text: str, rng: random.Random) -> str:
    value = json.loads(text)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        found = places(value)
        if not found:
            return json.dumps(rng.choice(VALUES))
        box, key = rng.choice(found)
        if isinstance(box[key], str) and box[key].startswith(("{", "[")):
            box[key] = change_json(box[key], rng)  # JSON inside JSON: settings, names, network, card
        elif rng.random() < 0.15:
            del box[key]
        elif rng.random() < 0.15 and isinstance(box, list):
            box.append(box[key])
        elif type(box[key]) is int and rng.random() < 0.5:
            box[key] += rng.choice([-64, -8, -1, 1, 8, 64, 2**31, 2**32])
        else:
            box[key] = rng.choice([*VALUES, rng.choice(found)[1]])
    return json.dumps(value)


def sealed(header: str, data: bytes) -> bytes:
    body = header.encode("utf-8", "surrogatepass")
    body += b" " * (-len(body) % 8)
    body = len(body).to_bytes(8, "little") + body + data
    return body.replace(NO_DIGEST.encode(), hashlib.sha256(body).hexdigest().encode(), 1)


def change_file(content: bytes, kind: str, rng: random.Random) -> bytes:
    """Mutate a state or a model and make its digest fit again."""
    words, tensors = unpack(content, kind, "input")
    tensors = dict(tensors)
    if "model" in tensors and rng.random() < 0.5:
        inside = change_file(tensors["model"].tobytes(), "model", rng)
        length = int.from_bytes(inside[:8], "little")
        words["model"] = str(json.loads(inside[8 : 8 + length]).get("__metadata__", {}).get("digest"))
        tensors["model"] = np.frombuffer(inside, np.uint8)
    elif tensors and rng.random() < 0.6:
        for name in rng.sample(sorted(tensors), rng.choice([1, 1, 2, min(3, len(tensors))]) if len(tensors) > 2 else 1):
            array = tensors[name]
            if rng.random() < 0.3 and array.ndim:
                array = rng.choice([array[:-1], array[:0], np.concatenate([array, array[:1]]), array.astype(np.int8), array[None]])
            elif array.size:
                flat = np.array(array).reshape(-1)
                info = np.iinfo(flat.dtype) if flat.dtype.kind in "iu" else None
                new = rng.choice([info.min, info.max, 0, 1, int(flat[0]) ^ 1, rng.randrange(info.min, info.max + 1)]) if info else 0
                flat[rng.randrange(flat.size)] = new
                array = flat.reshape(array.shape)
            tensors[name] = array
    packed = pack(kind, {key: value for key, value in words.items() if key not in ("bitreplay", "version", "digest")}, tensors)
    if rng.random() < 0.5:
        return packed
    length = int.from_bytes(packed[:8], "little")
    header = json.loads(packed[8 : 8 + length])
    header["__metadata__"]["digest"] = NO_DIGEST
    return sealed(change_json(json.dumps(header), rng), packed[8 + length :])


def mutate(data: bytes, largest: int, seed: int) -> bytes:
    rng = random.Random(seed)
    if rng.random() < 0.1:
        import atheris

        return atheris.Mutate(data, largest)
    while True:
        try:
            return change_file(bytes(data), "state", rng)[:largest]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            data = rng.choice(sound_seeds)  # nothing below the digest of `data` can be reached, or what was tried is no file


# -- the rules ------------------------------------------------------------------------------------------------------------------


def predicted(learner: Learner) -> bytes:
    images = tiny_model.random_images(5, 2, learner.image_size)
    if not learner.names:
        return b""
    said = [learner.predict(images, views=views).probabilities.tobytes() for views in (1, 6)]
    with suppress(ValueError):  # nothing that a share could be taken of
        said.append(learner.predict(images, reject=0.5).unknown.tobytes())
    return b"".join(said)


def reference_verdict(data: bytes) -> str | None:
    """What is wrong with a state, or None."""
    try:
        check_state(data, "input", shipped)
    except FormatError as error:
        return str(error)
    return None


def run(data: bytes) -> None:
    data, message = bytes(data), None
    seen["inputs"] += 1
    before = _engine.memory()[0]
    _engine.reset_memory_peak()
    tracemalloc.start()
    try:
        sound = parse_state(data, None, "input")
    except FormatError as error:
        message = str(error)
    taken = tracemalloc.get_traced_memory()[1] + _engine.memory()[1] - before
    tracemalloc.stop()
    assert taken <= 2 * len(data) + CONSTANT, f"{taken} bytes for an input of {len(data)}"
    seen[MOST] = max(seen[MOST], taken - 2 * len(data))
    verdict = reference_verdict(data)
    assert (verdict is None) == (message is None), f"the core says {message or 'sound'!r}, the reference {verdict or 'sound'!r}"
    if message is not None:
        assert message.isprintable(), "a message that a terminal could not show"
        assert len(message) < 2000
        seen[re.sub(r"\d+", "#", message.split(": expected")[0])[:70]] += 1
        return
    for name, array in load(data).items():  # what we take, safetensors takes as well
        assert array.dtype == unpack(data, "state", "input")[1][name].dtype
    network = sound.model.network
    if sound.settings.capacity * network.latent_words * 8 > EXPENSIVE or network.scratch_bytes > EXPENSIVE:
        seen["expensive"] += 1
        return
    try:
        learner = Learner.from_bytes(data, threads=1)
    except FormatError:
        seen["refused by the core"] += 1
        return
    seen["sound"] += 1
    again = Learner.from_bytes(learner.to_bytes(), threads=1)
    assert predicted(again) == predicted(learner)
    assert again.to_bytes() == learner.to_bytes()
    calls = 0

    def cancel() -> bool:
        nonlocal calls
        calls += 1
        return calls > 20

    try:
        learner.learn(tiny_model.random_images(6, 2, learner.image_size), [*learner.names[:1], "new", "more"][:2], cancel=cancel)
        predicted(learner)
        learner.forget(learner.names[0])
        assert Learner.from_bytes(learner.to_bytes(), threads=1).to_bytes() == learner.to_bytes()
    except (Cancelled, ValueError) as error:
        seen[type(error).__name__] += 1


def main() -> None:
    import atheris

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("inputs", nargs="*", help="files to run once, instead of fuzzing")
    options = parser.parse_args()
    parsers = [thing for thing in gc.get_objects() if inspect.isfunction(thing) and thing.__module__ in PARSERS]
    for function in parsers:  # instrument_imports does not see through the loader of an editable install
        atheris.instrument_func(function)
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    sound_seeds.extend(seeds(folder))
    for i, content in enumerate(sound_seeds):
        assert len(content) <= LARGEST
        (corpus / f"seed-{i}").write_bytes(content)
        run(content)
    assert seen["sound"] == seen["inputs"], f"a seed is not sound: {seen}"
    end = time.monotonic() + options.seconds - 1

    def run_and_report(data: bytes) -> None:
        nonlocal end
        run(data)
        if time.monotonic() > end:  # libFuzzer ends the process without a word to Python
            end = float("inf")
            print("\n".join(f"{count:9} {what}" for what, count in seen.most_common()), flush=True)

    limits = [f"-max_total_time={options.seconds}", f"-max_len={LARGEST}", "-timeout=5", "-rss_limit_mb=1024", "-verbosity=0"]
    arguments = options.inputs or [*limits, "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *arguments], run_and_report, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
