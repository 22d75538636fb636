"""The learner that users meet: teach it names from pictures, ask it for names, keep what it knows in one file.

Owns the names of classes and the checks of what comes in; the core owns everything that is learned.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _engine
from .datasets.pictures import PictureFiles
from .disk import replace_file
from .errors import FormatError
from .fleet import joined_parts, states_in
from .merge import merged_state
from .model import Model
from .settings import MAX_CAPACITY, VIEWS, Settings
from .state import MAX_NAME, State, core_of, is_name, parse_state, read_state, row_words, state_of, without_class
from .turn import Turn

MAX_CLASSES = 65_535
_PREDICT_ROWS = 256
_LEARN_ROWS = 64  # of pictures that are decoded when their turn comes
_A_NAME = f"names of 1 to {MAX_NAME} characters, not all blank, without control characters, and not . or .."


@dataclass(frozen=True)
class Prediction:
    """What the learner sees; iterating gives an `Answer` for each image.

    Attributes
    ----------
    names : most probable class of each image, list of N str.
    probabilities : float32 (N, K), columns in the order of ``learner.names``; multiples of 2^-15 that sum to nearly 1.
    unknown : bool (N,), where the image probably shows nothing that is known; all False unless ``reject`` was given.
    """

    names: list[str]
    probabilities: NDArray[np.float32]
    unknown: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Answer]:
        for name, row, unknown in zip(self.names, self.probabilities, self.unknown, strict=True):
            yield Answer(name, float(row.max()), bool(unknown))


class Answer(NamedTuple):
    """What the learner sees on one image.

    Attributes
    ----------
    name : the most probable class.
    confidence : its probability, 0..1.
    unknown : whether the image probably shows nothing that is known.
    """

    name: str
    confidence: float
    unknown: bool


def _reporter(progress: Callable[[str, int, int], object] | None, cancel: Callable[[], bool] | None) -> Callable[[str, int, int], bool]:
    # What the core asks between steps: whether to give up.
    def report(phase: str, done: int, total: int) -> bool:
        if progress is not None:
            progress(phase, done, total)
        return bool(cancel is not None and cancel())

    return report


def _go_on(gives_up: bool) -> None:
    if gives_up:
        raise _engine.Cancelled("the merge was given up; nothing has changed")


def _default_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_threads(threads: int | None) -> None:
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= 4096):
        raise ValueError(f"threads: expected at least 1 and at most 4096, got {threads!r}")


class Learner:
    """A binary network that learns new classes in integers, in a memory whose size is known beforehand.

    The same uint8 arrays in the same order give the same state file, byte for
    byte, on every instruction set and with any number of threads.

    Several threads may use one: they take turns in the order in which they come, and a thread that asks during another's lesson waits until it has finished.
    A forked child may use it too, unless another thread was teaching it at that moment: then all its methods raise RuntimeError there.

    Parameters
    ----------
    model : a `Model`, the path of a model file, the name of a shipped backbone, or None for the default backbone.
    settings : how it learns; None: `Settings()`.
    threads : for the network; default as many as the process may use.  Never changes a result.
    state : what it knows already, as a state file has it; for `load` and `merge`.

    Raises
    ------
    ValueError : a value is out of range, or does not suit the model.
    FormatError : the model file is not sound.

    Examples
    --------
    >>> Learner("quicknet-32", Settings(capacity=300, views=2))
    <Learner on quicknet-32: no class yet, 0 pictures, 0 of 300 replay rows>
    """

    def __init__(
        self,
        model: Model | str | Path | None = None,
        settings: Settings | None = None,
        *,
        threads: int | None = None,
        state: State | None = None,
    ) -> None:
        _check_threads(threads)
        self._model = model = Model.open(model)
        self._settings = settings = settings or Settings()
        self._threads = threads or _default_threads()
        self._names: list[str] = []
        self._workers = _engine.Workers(self._threads)
        self._turn = Turn()
        self._said: NDArray[np.int32] | None = None  # of `_classified`
        self._familiar: _engine.Unknown | None = None
        if state is not None:
            self._take(state)
            return
        self._core = _engine.Learner(model.file, settings.for_core())

    def __repr__(self) -> str:
        core, names = self._core, self._names
        known = f"{len(names)} classes ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})" if names else "no class yet"
        pictures = int(core["seen"].sum())
        return (
            f"<Learner on {self._model.name}: {known}, {pictures} pictures, {len(core['labels'])} of {self._settings.capacity} replay rows>"
        )

    # -- making, loading, saving ------------------------------------------------------------------------------------------

    @classmethod
    def within_memory(
        cls,
        memory_bytes: int,
        model: Model | str | Path | None = None,
        settings: Settings | None = None,
        *,
        threads: int | None = None,
    ) -> Learner:
        """Make a learner that knows nothing yet, with the largest capacity that fits into so much memory.

        Parameters
        ----------
        memory_bytes : bytes of everything that learning keeps or needs at its peak: network, head, replay memory, the working memory of an
            experience, the copy that makes it a transaction, and room for `max_classes`.  Pixels that the caller holds are the caller's.
        model : as in the constructor.
        settings : all but the capacity; None: `Settings(lesson_images=1024)`.  A `lesson_images` of None counts as 1,024 here.
        threads : as in the constructor; the capacity depends on it.

        Raises
        ------
        ValueError : `memory_bytes` is too small (the message says what it takes), or a value does not suit the model.
        FormatError : the model file is not sound.

        Examples
        --------
        >>> learner = Learner.within_memory(4_000_000, settings=Settings(max_classes=20, lesson_images=100), threads=1)
        >>> learner.info()["bytes"]["learning_peak"] <= 4_000_000
        True
        """
        opened, settings = Model.open(model), settings or Settings()
        images = settings.lesson_images or 1024
        least = 0 if settings.tail is None else 1
        settings = replace(settings, capacity=least, lesson_images=images)
        probe = cls(opened, settings, threads=threads)
        if not isinstance(memory_bytes, int) or memory_bytes < probe._peak_bytes(least):
            raise ValueError(
                f"memory_bytes: expected at least {probe._peak_bytes(least)} for this model, lessons of {images} images and "
                f"{settings.max_classes} classes, got {memory_bytes!r}; allow more, or lower lesson_images or max_classes"
            )
        low, high = least, min(memory_bytes // (opened.network.latent_words * 8) + 1, MAX_CAPACITY)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if probe._peak_bytes(middle) <= memory_bytes else (low, middle - 1)
        return cls(opened, replace(settings, capacity=low), threads=threads)

    @classmethod
    def load(cls, path: str | Path, *, model: Model | str | Path | None = None, threads: int | None = None) -> Learner:
        """Read a state file.

        Parameters
        ----------
        path : file written by `save`.
        model : the model it was taught on; needed only when that is neither shipped with the package nor in the file.
        threads : as in the constructor.

        Raises
        ------
        FormatError : the file is damaged, of another version, or made for another model.
        OSError : it cannot be read.
        """
        return cls._from_state(read_state(Path(path), None if model is None else Model.open(model)), threads, str(path))

    @classmethod
    def from_bytes(cls, content: bytes, *, model: Model | str | Path | None = None, threads: int | None = None) -> Learner:
        """Read what `to_bytes` gave; errors as `load`'s."""
        return cls._from_state(parse_state(content, None if model is None else Model.open(model), "state"), threads, "state")

    def copy(self) -> Learner:
        """Another learner that knows the same; what one learns, the other does not."""
        with self._turn:
            return Learner(self._model, self._settings, threads=self._threads, state=self._state())

    def save(self, path: str | Path) -> None:
        """Write the state to `path`: beside it first, synced, then renamed over it.

        Raises
        ------
        OSError : it cannot be written; the old file stays as it was.
        """
        replace_file(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        with self._turn:
            return self._core.content(self._model.file, not self._model.shipped, self._names)  # type: ignore[no-any-return]

    # -- learning and predicting ------------------------------------------------------------------------------------------

    def learn(
        self,
        images: NDArray[np.uint8] | PictureFiles,
        labels: Sequence[str],
        *,
        progress: Callable[[str, int, int], object] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> None:
        """Learn one experience: all of it, or, when anything fails, nothing.

        Parameters
        ----------
        images : uint8 (N, S, S, 3), RGB, 0..255, S = ``image_size``, N >= 1; or `PictureFiles`, or anything else of a length whose slices are such arrays:
            64 pictures are in memory at a time.
        labels : N names; a name that is new opens a new class.
        progress : called with phase ("latents", "train" for the head, "tail"), done, total; a phase may come twice.
        cancel : asked between steps; True gives the lesson up.

        Raises
        ------
        TypeError, ValueError : the input does not fit; the message says what was expected.
        Cancelled : `cancel` returned True.  KeyboardInterrupt: Ctrl-C.  In all cases nothing has changed.
        RuntimeError : it is called from inside a lesson's progress.

        Notes
        -----
        Cost and memory: docs/method.md 4 and 7.6, and ``info()["bytes"]``.
        """
        with self._change("learn"):
            self._learn(images, labels, progress, cancel)

    def _learn(self, images: Any, labels: Any, progress: Any, cancel: Any) -> None:
        whole = isinstance(images, np.ndarray)
        if whole:
            images = self._check_images(images)
        elif not (hasattr(images, "__len__") and hasattr(images, "__getitem__")) or isinstance(images, list | tuple | str | bytes):
            raise TypeError(
                f"images: expected a numpy array or PictureFiles, got {type(images).__name__}; use numpy.asarray or load_pictures"
            )
        elif len(images) == 0:
            raise ValueError("images: expected at least one, got none")
        names = self._check_labels(labels, len(images))
        known = {name: index for index, name in enumerate(self._names)}
        for name in names:
            known.setdefault(name, len(known))
        if len(known) > self._settings.max_classes:
            raise ValueError(
                f"labels: expected at most {self._settings.max_classes} classes in all, got {len(known)}; "
                "make the learner with a larger max_classes, or teach fewer names"
            )
        capacity = self._settings.capacity
        if self._settings.train_blocks and len(known) > capacity:
            raise ValueError(
                f"labels: expected at most {capacity} classes in all, got {len(known)}: where the tail is trained, every class needs a row in "
                "the replay memory; make the learner with a larger capacity, or with tail=None"
            )
        limit = self._settings.lesson_images
        if limit is not None and len(images) > limit:
            raise ValueError(
                f"images: expected at most {limit} per lesson, got {len(images)}; teach them in several lessons, or make the "
                "learner with a larger lesson_images"
            )

        indices = np.array([known[name] for name in names], np.int32)
        report = _reporter(progress, cancel)
        if whole:
            self._core.learn(images, indices, len(known), self._workers, report)
        else:
            self._core.learn_batches(
                lambda first, count: self._check_images(images[first : first + count]),
                _LEARN_ROWS,
                indices,
                len(known),
                self._workers,
                report,
            )
        self._names = list(known)

    def forget(self, name: str) -> None:
        """Forget a class: its name, counts, sums and replay rows (docs/method.md 4.4).

        Its sum of features goes exactly; of the scatter within classes, which is one for all, a share by its rows goes, so the other classes' weights
        move a little.  With CWR* they stay, to the bit.  Where a tail is trained (``train_blocks``) it stays as it is: what lessons with this class changed there cannot be told apart.
        Files that were saved before still hold the class.

        Raises
        ------
        ValueError : `name` is not known.
        RuntimeError : it is called from inside a lesson's progress.
        """
        with self._change("forget"):
            self._take(without_class(self._state(), name))

    def rename(self, old: str, new: str) -> None:
        """Call a class by another name; nothing else changes.

        Raises
        ------
        ValueError : `old` is not known, or `new` is taken already or no name.
        RuntimeError : it is called from inside a lesson's progress.
        """
        with self._change("rename"):
            if old not in self._names:
                raise ValueError(f"old: expected one of {', '.join(self._names) or 'no class, since none is known'}, got {old!r}")
            if not is_name(new):
                raise ValueError(f"new: expected {_A_NAME}, got {new!r:.80}")
            if new != old and new in self._names:
                raise ValueError(f"new: expected a name that is not in use, got {new!r}; forget that class first")
            self._names = [new if name == old else name for name in self._names]

    def merge(
        self,
        *others: Learner,
        progress: Callable[[str, int, int], object] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> bool:
        """Take over what other learners know (docs/method.md 8), or change nothing if anything fails.

        The sums that LDA is made from add up: its head becomes that of one device which was taught everything.  Of trained tails that differ one is
        kept.  Memories are cut to this learner's capacity by class balance; where a tail is trained, or the head is CWR*, these then learn from the
        replay samples.  Settings stay this learner's.  A name that several know is one class.

        Parameters
        ----------
        others : learners on the same model, with the same head, views and trained blocks; they stay as they are.
        progress, cancel : as in `learn`.

        Returns
        -------
        Whether the tails were equal; where not, the tail of the one that saw most pictures was kept, and those of the others are lost.

        Raises
        ------
        ValueError : the learners do not fit, or know too many classes together.
        Cancelled, KeyboardInterrupt : as in `learn`; nothing has changed.

        Notes
        -----
        Meant for a machine with room: beside all learners it takes copies of their states and of the merged one, while it joins them, and
        then the merged one with the working memory of a lesson without pictures.  What two learners have from an earlier merge counts twice
        in the sums (rows that are equal are kept once): merge each taught thing once.
        """
        if not others:
            raise ValueError("others: expected at least one learner, got none")
        if self in others:
            raise ValueError("others: expected other learners, got this one; what it was taught would count twice")
        states = []
        for other in others:  # before this one's turn comes: two may be merging each other
            with other._turn:
                states.append(other._state())
        with self._change("merge"):
            _go_on(cancel is not None and bool(cancel()))
            return self._merge(states, progress, cancel)

    def merge_files(
        self,
        *paths: str | Path,
        workers: int = 1,
        scheduler: str | None = None,
        progress: Callable[[str, int, int], object] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> bool:
        """As `merge`, of state files: thousands of them, in the memory of two.

        Parameters
        ----------
        paths : state files, taught on this learner's model; they stay as they are.
        workers : processes of this machine that share the files; more than 1 needs the extra ``train``.
        scheduler : address of a Dask scheduler, whose workers see the files under the same names, instead of `workers`.
        progress : as in `merge`; phase "files" counts these.

        Raises
        ------
        FormatError, OSError : a file is damaged, made for another model, or cannot be read; nothing has changed.
        ValueError, Cancelled, KeyboardInterrupt : as in `merge`.

        Notes
        -----
        Where tails were trained, that of the file, or of the part that one worker joined, which saw most pictures is kept.
        """
        if not paths:
            raise ValueError("paths: expected at least one state file, got none")
        if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers!r}")
        report = _reporter(progress, cancel)

        def told(done: int, total: int) -> None:
            _go_on(report("files", done, total))

        files = [Path(path) for path in paths]
        with self._change("merge"):
            if workers == 1 and scheduler is None:
                return self._merge(states_in(files, self._model, self._settings, told), progress, cancel)
            return self._merge(
                joined_parts(files, self._model, self._settings, workers=workers, scheduler=scheduler, report=told), progress, cancel
            )

    def _merge(self, states: Iterable[State], progress: Any, cancel: Any) -> bool:
        state, equal = merged_state(chain([self._state()], states))
        core, names = core_of(state), list(state.names)
        del state
        core.rehearse(self._workers, _reporter(progress, cancel))
        self._core, self._names = core, names
        return equal

    def predict(self, images: NDArray[np.uint8], *, views: int | None = None, reject: float | None = None) -> Prediction:
        """Name what is on the images; changes nothing.

        Parameters
        ----------
        images : uint8 (N, S, S, 3), RGB, 0..255, S = ``image_size``, N >= 1.
        views : how many views of each image are looked at, and their logits averaged (docs/method.md 1.1); None: as many as were learned from.
            More take as many times as long and are more accurate for things that may face either way; two less for text and digits.
        reject : which share of pictures of known things may be called unknown, 0 < reject < 1, so that others are (docs/method.md 4.5).  The
            threshold is that share of the remembered rows, each judged as if it had not been learned from; it is kept for pictures of the same kind.
            New objects of a known class, or another light, are called unknown more often; what is let through of other things is in docs/accuracy.md.
            None: nothing is called unknown.

        Raises
        ------
        ValueError : the input does not fit, or nothing has been learned yet; or `reject` is given and no class has two pictures with one of them
            remembered, or the head is not LDA.

        Notes
        -----
        The first `reject` after a change looks at every remembered row, and keeps two bytes for each pair of features.
        """
        images = self._check_images(images)
        if views is not None and (views not in VIEWS or isinstance(views, bool)):
            raise ValueError(f"views: expected 1, 2 or 6, or None, got {views!r:.40}")
        looks = views or self._settings.views
        if reject is not None and not (isinstance(reject, Real) and 0 < reject < 1):
            raise ValueError(f"reject: expected a share between 0 and 1, or None, got {reject!r}")
        if not self._names:
            raise ValueError("predict: expected a learner that knows a class, got one that knows no class; call learn first")
        best, probabilities, familiar = [], [], []
        with self._turn:
            unknown = None if reject is None else self._unknown()
            least = None if reject is None or unknown is None else unknown.threshold(reject)
            for start in range(0, len(images), _PREDICT_ROWS):
                classes, p, familiarity = self._core.predict(images[start : start + _PREDICT_ROWS], self._workers, looks, unknown)
                best.append(classes)
                probabilities.append(p.astype(np.float32) / 2**15)
                familiar.append(np.zeros(len(classes), bool) if least is None else familiarity < least)
            names = [self._names[i] for i in np.concatenate(best)]
            return Prediction(names, np.concatenate(probabilities), np.concatenate(familiar))

    def predict_proba(self, images: NDArray[np.uint8], *, views: int | None = None) -> NDArray[np.float32]:
        """Probabilities, float32 (N, K), columns in the order of `names`; as `predict` gives them."""
        return self.predict(images, views=views).probabilities

    def score(self, images: NDArray[np.uint8], labels: Sequence[str], *, views: int | None = None) -> float:
        """Share of the images, 0..1, that are named as `labels` say; labels that the learner does not know count as wrong."""
        given = self._check_labels(labels, len(images))
        return float(np.mean([name == label for name, label in zip(self.predict(images, views=views).names, given, strict=True)]))

    def replay_accuracy(self) -> dict[str, float | None]:
        """Replay accuracy: the share of each class's remembered rows that are named correctly, by name; None where that cannot be said.

        Each row is judged as if it had not been learned from (docs/method.md 4.5); where a trained tail is used, only rows that were held back from it
        are judged (7.7).  So it is a figure for new pictures of the same kind, not for new objects or new lighting.
        With CWR* rows are judged as they were learned: an upper bound.  Looks at every row, once after each change, and keeps 4 bytes a row of what
        it saw, which are in no figure of `info`.
        """
        with self._turn:
            best = self._classified()
            labels = self._core["labels"]
            right = np.bincount(labels[best == labels], minlength=len(self._names))
            rows = np.bincount(labels[best >= 0], minlength=len(self._names))
            return {name: float(r / n) if n else None for name, r, n in zip(self._names, right, rows, strict=True)}

    def _classified(self) -> NDArray[np.int32]:
        # Class of every remembered row, kept until the next change.
        if self._said is None or self._turn.changing:
            self._said = self._core.classify_rows(self._workers)
        return self._said

    def _unknown(self) -> _engine.Unknown:
        if self._familiar is None or self._turn.changing:
            if self._settings.head != "lda":
                raise ValueError(f"reject: expected a learner whose head is lda, got {self._settings.head}; make a new one with head='lda'")
            if not np.any(self._core["count"][self._core["labels"]] > 1):
                raise ValueError(
                    "reject: expected a learner that remembers a row of a class with at least two pictures, got none; teach more pictures, "
                    "or make a new one with a capacity above 0"
                )
            self._familiar = self._core.unknown(self._workers)
        return self._familiar

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.int8]:
        """What the head sees, int8 (N, D_f) in -127..127; real value times 2^feature_bits (docs/method.md 3.6)."""
        images = self._check_images(images)
        with self._turn:
            rows = [self._core.features(images[i : i + _PREDICT_ROWS], self._workers) for i in range(0, len(images), _PREDICT_ROWS)]
        return np.concatenate(rows)

    # -- what it knows ----------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Names of the known classes, in the order in which they were first taught."""
        return list(self._names)

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the network reads."""
        return int(self._model.network.image_size)

    @property
    def model(self) -> Model:
        """The frozen network."""
        return self._model

    @property
    def settings(self) -> Settings:
        """How lessons are learned."""
        return self._settings

    def info(self) -> dict[str, Any]:
        """What is known, and every byte: a dict of plain values.

        ``last_lesson`` counts the binary weights that are trained, those that the last lesson in this process flipped, and the pictures of it that
        counted (near-equal ones count once); with a trained tail its weight beside the head, 0 where it does not help, and the class that it would have
        harmed, if it is ignored for that.  ``saturated`` is the share of all features learned from that lie at the end of their range: more than
        some percent means that the pictures are far from what the network was trained on.
        ``bytes`` holds what the core keeps (network, head with the sums it is made from, trained tail, replay_rows, replay_counts; ``kept`` is their sum), what a lesson of
        ``lesson_images`` images needs on top (lesson), the highest total while learning (learning_peak), and the working memory of
        predicting with these threads (predicting).  The new copies of head and tail, which make a lesson a transaction, are ``transaction``, a
        part of lesson.
        """
        with self._turn:
            return self._info()

    def _info(self) -> dict[str, Any]:
        core, network = self._core, self._model.network
        labels = np.bincount(core["labels"], minlength=len(self._names))
        classes = [
            {"name": name, "samples": int(seen), "replay_rows": int(rows)}
            for name, seen, rows in zip(self._names, core["seen"], labels, strict=True)
        ]
        words = row_words(network, self._settings)
        settings = self._settings
        images = settings.lesson_images or 1024
        now = self._footprint(settings.capacity, len(labels))
        most = now if settings.lesson_images is None else self._footprint(settings.capacity, settings.max_classes)
        rows_bytes = settings.capacity * words * 8
        sizes = {
            "network": now["network"],
            "head": now["head"],
            "tail": now["tail"],
            "replay_rows": rows_bytes,
            "replay_counts": now["replay"] - rows_bytes,
            "kept": now["kept"],
            "lesson": most["lesson"],
            "transaction": now["head"] + now["tail"],
            "learning_peak": most["kept"] + most["lesson"],
            "predicting": core.prediction_bytes(_PREDICT_ROWS, settings.views, self._threads),
            "replay_row": words * 8 + 2,
        }
        return {
            "model": {key: value for key, value in self._model.info().items() if key not in ("card", "bytes")},
            "lessons": int(core["experience"]),
            "head": settings.head,
            "last_lesson": {
                "counted": int(core["counted"]),
                "weights": int(core["tail_weights"]),
                "flipped": int(core["flipped"]),
                "tail_weight": core["mixing"][1] / 2**16,
                "tail_harmed": self._names[core["worse"]] if core["worse"] >= 0 else None,
            },
            "saturated": int(core["saturated"]) / max(1, int(core["count"].sum()) * (settings.lda_features or network.feature_count)),
            "classes": classes,
            "capacity": settings.capacity,
            "replay_rows": int(labels.sum()),
            "lesson_images": images,
            "max_classes": settings.max_classes,
            "bytes": sizes,
        }

    # -- inside -----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _change(self, what: str) -> Iterator[None]:
        with self._turn.change(what):
            try:
                yield
            finally:
                self._said = self._familiar = None

    @classmethod
    def _from_state(cls, state: State, threads: int | None, where: str) -> Learner:
        _check_threads(threads)
        try:
            return cls(state.model, state.settings, threads=threads, state=state)
        except ValueError as error:
            raise FormatError(f"{where}: settings: {error}") from error
        except MemoryError as error:
            capacity = state.settings.capacity
            size = capacity * (row_words(state.model.network, state.settings) * 8 + 2)
            raise FormatError(
                f"{where}: settings: capacity: {capacity} rows take {size} bytes, more than this machine has free; use one with more memory"
            ) from error

    def _state(self) -> State:
        return state_of(self._model, self._settings, self._names, self._core)

    def _take(self, state: State) -> None:
        self._core, self._names, self._said, self._familiar = core_of(state), list(state.names), None, None

    def _footprint(self, capacity: int, classes: int, *, anywhere: bool = False) -> dict[str, int]:
        # Bytes with a full memory of `capacity` rows and so many classes; anywhere: at most, on any processor.
        images = self._settings.lesson_images or 1024
        return self._core.footprint(capacity, capacity, images, classes, self._threads, anywhere)  # type: ignore[no-any-return]

    def _peak_bytes(self, capacity: int) -> int:
        # Highest total that this learner can reach with `capacity`, max_classes and lesson_images, on any processor.
        bytes_ = self._footprint(capacity, self._settings.max_classes, anywhere=True)
        return bytes_["kept"] + bytes_["lesson"]

    def _check_images(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = self.image_size
        if not isinstance(images, np.ndarray):
            raise TypeError(f"images: expected a numpy array, got {type(images).__name__}; use numpy.asarray")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            hint = 'scale to 0..255 and use .astype("uint8")' if images.dtype != np.uint8 else f"bring them to {size} x {size} RGB"
            raise ValueError(f"images: expected uint8 (N, {size}, {size}, 3), got {images.dtype} {images.shape}; {hint}")
        if len(images) == 0:
            raise ValueError("images: expected at least one, got none")
        return np.ascontiguousarray(images)

    @staticmethod
    def _check_labels(labels: Sequence[str], count: int) -> list[str]:
        if isinstance(labels, str):
            raise TypeError("labels: expected a sequence of names, got one str; give one name per image")
        if not isinstance(labels, Iterable):
            raise TypeError(f"labels: expected a sequence of names, got {type(labels).__name__}; give one name per image")
        names = list(labels)
        if len(names) != count:
            raise ValueError(f"labels: expected {count}, one per image, got {len(names)}")
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f'labels: expected names (str), got {type(name).__name__} {name!r}; name the classes, e.g. "mug"')
            if not is_name(name):
                raise ValueError(f"labels: expected {_A_NAME}, got {name!r:.80}")
        return [str(name) for name in names]
