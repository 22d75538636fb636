"""Threads change nothing that is computed; one learner may be asked and taught from several threads, and outlives a fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from new_learner import new_learner

from bitreplay import Learner, Model
from bitreplay.model import write_model

SIZE = 16
SHAPE: dict[str, Any] = {"image_size": SIZE, "widths": (4, 8, 72), "blocks": (1, 1, 3), "tail_blocks": 3, "stem_strides": (2, 1)}
FAMILY = {"relu": False, "threshold": True, "activation": True}
DOWN: dict[str, Any] = {
    "image_size": SIZE,
    "widths": (5, 67, 130),
    "blocks": (1, 1, 0),
    "stem_strides": (1, 1),
    "tail_blocks": 2,
    "down": FAMILY,
}


def pictures(seed: int, count: int) -> np.ndarray:
    return tiny_model.random_images(seed, count, SIZE)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network, tensors = tiny_model.make_model(5, **SHAPE)
    path = tmp_path_factory.mktemp("threads") / "tiny.model"
    write_model(path, network, tensors, {"name": "tiny"})
    return path


@pytest.fixture
def learner(model_file: Path) -> Learner:
    made = new_learner(model_file, capacity=12, threads=2, near_equal=0)
    made.learn(pictures(1, 9), list("aabbaabbc"))
    return made


def in_thread(action: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, errors


# -- inside and between pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SHAPE, DOWN])
@pytest.mark.parametrize("train_blocks", [0, 1])
def test_any_number_of_threads_says_the_same_of_any_number_of_pictures(tmp_path: Path, shape: dict[str, Any], train_blocks: int) -> None:
    network, tensors = tiny_model.make_model(5, **shape)
    model: Model = write_model(tmp_path / "m", network, tensors, {"name": "tiny"})
    state, seen = set(), []
    for threads in (1, 2, 3, 5, 24):
        learner = new_learner(model, capacity=12, threads=threads, near_equal=0, train_blocks=train_blocks)
        for count in (1, 4, 7):  # one picture, fewer than threads, more
            learner.learn(pictures(count, count), list("abcabca"[:count]))
        state.add(learner.to_bytes())
        seen.append([])
        for count in (1, 2, 3, 4, 11, 70):  # within pictures, a picture each, and both
            found = learner.predict(pictures(9, count), views=2)
            seen[-1].append((found.names, found.probabilities.tobytes(), learner.features(pictures(9, count)).tobytes()))
    assert len(state) == 1
    assert all(of == seen[0] for of in seen)


# -- several threads ask and teach --------------------------------------------------------------------------------------------


def test_lessons_and_predictions_from_two_threads_wait_for_each_other(learner: Learner) -> None:
    asked = pictures(3, 3)
    stop, began = threading.Event(), threading.Event()
    said: list[bytes] = []

    def ask() -> None:
        while not stop.is_set():
            said.append(learner.predict(asked).probabilities.tobytes())
            began.set()

    before = learner.predict(asked).probabilities.tobytes()
    thread, errors = in_thread(ask)
    assert began.wait(60)
    may_be = {before}
    try:
        for number in range(30):
            learner.learn(pictures(number, 4), list("abca"))
            may_be.add(learner.predict(asked).probabilities.tobytes())
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert errors == []
    assert learner.info()["lessons"] == 31
    assert set(said) <= may_be  # of a state between two lessons


def test_a_prediction_during_a_lesson_says_what_a_whole_state_says(learner: Learner) -> None:
    asked = pictures(3, 5)
    threads: list[tuple[threading.Thread, list[BaseException]]] = []
    others: list[bytes] = []
    own: list[bytes] = []

    def progress(phase: str, done: int, total: int) -> None:
        if not threads:
            threads.append(in_thread(lambda: others.append(learner.predict(asked).probabilities.tobytes())))
        own.append(learner.predict(asked).probabilities.tobytes())  # in the lesson's own thread: at once

    before = learner.predict(asked).probabilities.tobytes()
    learner.learn(pictures(4, 6), list("ccabab"), progress=progress)
    threads[0][0].join(60)
    after = learner.predict(asked).probabilities.tobytes()
    assert before != after
    assert set(own) == {before}
    assert threads[0][1] == []
    assert others in ([before], [after])


def test_the_second_of_two_lessons_waits_for_the_first(learner: Learner) -> None:
    alone = learner.copy()
    threads: list[tuple[threading.Thread, list[BaseException]]] = []
    meanwhile = []

    def progress(phase: str, done: int, total: int) -> None:
        if not threads:
            threads.append(in_thread(lambda: learner.learn(pictures(2, 4), list("xyab"))))
        meanwhile.append(learner.names)

    learner.learn(pictures(4, 6), list("ccabab"), progress=progress)
    threads[0][0].join(60)
    assert threads[0][1] == []
    assert all(names == ["a", "b", "c"] for names in meanwhile)
    alone.learn(pictures(4, 6), list("ccabab"))
    alone.learn(pictures(2, 4), list("xyab"))
    assert learner.to_bytes() == alone.to_bytes()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no such signals here")
def test_who_waits_may_be_interrupted_and_keeps_nobody_waiting(learner: Learner) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def progress(phase: str, done: int, total: int) -> None:
        inside.set()
        assert go_on.wait(60)

    def interrupt() -> None:
        while len(learner._turn._waiting) < 2:
            pass
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    lesson = in_thread(lambda: learner.learn(pictures(4, 6), list("ccabab"), progress=progress))
    assert inside.wait(60)
    waiting = in_thread(lambda: learner.predict(pictures(3, 2)))
    interrupting = in_thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        learner.predict(pictures(3, 2))
    go_on.set()
    for thread, errors in (lesson, waiting, interrupting):
        thread.join(60)
        assert not thread.is_alive()
        assert errors == []
    learner.learn(pictures(4, 2), ["a", "b"])
    assert learner.info()["lessons"] == 3


# -- fork and exit ------------------------------------------------------------------------------------------------------------

BEGIN = """
import os, sys, threading
import numpy as np
from bitreplay import Learner, Settings

def pictures(seed, count):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)

def child(action):
    # What `action` returns in a forked process: a text.
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = action()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        said = file.read().decode()
    assert os.waitpid(pid, 0)[1] == 0
    return said

learner = Learner(sys.argv[1], Settings(capacity=12, near_equal=0), threads=2)
learner.learn(pictures(1, 9), list("aabbaabbc"))
asked = pictures(3, 1)
answer = learner.predict(asked).probabilities.tobytes().hex()

def ask():
    return learner.predict(asked).probabilities.tobytes().hex()

def teach():
    learner.learn(pictures(2, 5), list("abcab"))
    return learner.to_bytes().hex()
"""

AT_REST = """
assert child(ask) == answer
taught = child(teach)
assert child(lambda: child(ask)) == answer  # a child's child
assert ask() == answer
assert teach() == taught
"""

WHILE_ASKED = """
stop, began = threading.Event(), threading.Event()

def keep_asking():
    while not stop.is_set():
        learner.predict(pictures(4, 40))
        began.set()

thread = threading.Thread(target=keep_asking)
thread.start()
began.wait()
copy = learner.copy()
copy.learn(pictures(2, 5), list("abcab"))
for _ in range(10):
    assert child(ask) == answer
    assert child(teach) == copy.to_bytes().hex()
stop.set()
thread.join()
assert ask() == answer
"""

WHILE_TAUGHT = """
inside, go_on = threading.Event(), threading.Event()

def progress(*_):
    inside.set()
    go_on.wait()

thread = threading.Thread(target=lambda: learner.learn(pictures(4, 6), list("ccabab"), progress=progress))
thread.start()
inside.wait()
waiting = threading.Thread(target=ask)
waiting.start()
for action in (ask, teach, lambda: str(learner.info()), lambda: str(learner.features(asked)), lambda: learner.to_bytes().hex()):
    said = child(action)
    assert said.startswith("RuntimeError: learner: expected one that no other thread was teaching when this process was forked, got"), said
assert child(lambda: str(len(Learner.load(sys.argv[1] + ".state").names))) == "3"
go_on.set()
thread.join()
waiting.join()
assert learner.info()["lessons"] == 2
assert child(ask) == ask() != answer
"""

FROM_PROGRESS = """
said = []

def lesson(fork):
    def progress(phase, done, total):
        if fork and not said and done:
            pid = os.fork()
            said.append(pid)
            ask()
    learner.learn(pictures(4, 70), list("ccabab" * 12)[:70], progress=progress)
    return learner.to_bytes().hex()

read, write = os.pipe()
content = lesson(True)
if said[0] == 0:
    os.write(write, content[-2000:].encode())
    os._exit(0)
os.close(write)
assert os.waitpid(said[0], 0)[1] == 0
with os.fdopen(read, "rb") as file:
    assert file.read().decode() == content[-2000:]
"""

LESSONS_GO_ON = """
stop = threading.Event()

def keep_teaching():
    while not stop.is_set():
        learner.learn(pictures(4, 30), list("ccabab" * 5))

thread = threading.Thread(target=keep_teaching)
thread.start()
for _ in range(10):
    said = child(ask)
    assert said.startswith("RuntimeError: learner: expected") or len(said) == len(answer), said
stop.set()
thread.join()
"""

EXIT = """
for number in range(3):
    def keep_asking(other=learner.copy()):
        while True:
            other.predict(pictures(4, 3))
    threading.Thread(target=keep_asking, daemon=True).start()
ask()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(
    "code", [AT_REST, WHILE_ASKED, WHILE_TAUGHT, FROM_PROGRESS, LESSONS_GO_ON, EXIT],
    ids=["at rest", "while asked", "while taught", "from a lesson's progress", "lessons go on", "exit"],
)  # fmt: skip
def test_a_forked_child_works_or_says_why_not(model_file: Path, learner: Learner, code: str) -> None:
    learner.save(f"{model_file}.state")
    command = [sys.executable, "-c", BEGIN + code, str(model_file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            _, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children too
            raise
    assert process.returncode == 0, errors[-2000:]
