"""Streams of experiences: which pictures come together, and in which order (docs/experiments.md).

Owns the split of a set's row numbers; knows no pictures, no files and no learner.  The same labels, arguments and seed give the
same rows in the same order, and experience i does not depend on how many follow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CIFAR10_NC5 = (("frog", "bird"), ("airplane", "ship"), ("horse", "automobile"), ("dog", "deer"), ("truck", "cat"))


@dataclass(frozen=True, eq=False)
class Experience:
    """Pictures that are learned in one call.

    Parameters
    ----------
    name : what tables call it.
    rows : int64 (N,), row numbers in the set, in the order in which they are learned.
    """

    name: str
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stream:
    """Experiences in their order.

    Parameters
    ----------
    experiences : at least one, none of them empty.
    """

    experiences: tuple[Experience, ...]

    def __post_init__(self) -> None:
        if not self.experiences:
            raise ValueError("experiences: expected at least one, got none")
        for experience in self.experiences:
            if not len(experience.rows):
                raise ValueError(f"experience {experience.name}: expected pictures, got none; leave it out of the stream")

    def __len__(self) -> int:
        return len(self.experiences)

    def __iter__(self) -> Iterator[Experience]:
        return iter(self.experiences)

    def classes(self, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Class numbers of each experience, ascending."""
        return tuple(np.unique(labels[experience.rows]) for experience in self.experiences)

    def merged(self, seed: int) -> NDArray[np.int64]:
        """All rows of all experiences, shuffled: what joint training gets."""
        return _generator(seed, len(self)).permutation(np.concatenate([experience.rows for experience in self.experiences]))


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, number))


def new_classes(labels: NDArray[np.int64], names: Sequence[str], groups: Sequence[Sequence[str | int]], seed: int) -> Stream:
    """NC: each experience brings all pictures of its classes.

    Parameters
    ----------
    labels : int64 (N,), class of each picture.
    names : class names, index = label.
    groups : classes of each experience, by name or number, any sizes; classes that are in none are left out.
    seed : shuffles the rows of an experience.

    Raises
    ------
    ValueError : a class is unknown, comes twice, or has no pictures; a group is empty.

    Examples
    --------
    >>> stream = new_classes(np.array([0, 1, 2, 1]), ["cat", "dog", "owl"], [["dog"], [0, "owl"]], seed=0)
    >>> [sorted(experience.rows.tolist()) for experience in stream]
    [[1, 3], [0, 2]]
    """
    number = {name: index for index, name in enumerate(names)}
    experiences: list[Experience] = []
    seen: set[int] = set()
    for position, group in enumerate(groups):
        classes = []
        for entry in group:
            index = number.get(entry, -1) if isinstance(entry, str) else int(entry)
            if not 0 <= index < len(names):
                some = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
                raise ValueError(f"groups: expected classes of the set ({some}), got {entry!r} in group {position}")
            if index in seen:
                raise ValueError(f"groups: expected each class once, got {entry!r} again in group {position}")
            seen.add(index)
            classes.append(index)
        rows = np.flatnonzero(np.isin(labels, classes))
        missing = sorted(set(classes) - set(labels[rows].tolist()))
        if not classes or missing:
            what = f"no picture of {names[missing[0]]!r}" if missing else "an empty group"
            raise ValueError(f"groups: expected classes with pictures in every group, got {what} in group {position}")
        title = " ".join(names[index] for index in classes) if len(classes) <= 3 else f"{len(classes)} classes"
        experiences.append(Experience(title, _generator(seed, position).permutation(rows)))
    return Stream(tuple(experiences))


def class_groups(classes: int, each: int, order_seed: int | None = None) -> list[list[int]]:
    """Group class numbers `each` at a time, in their own order or in one drawn with `order_seed`; the last group may be smaller.

    Examples
    --------
    >>> class_groups(5, 2)
    [[0, 1], [2, 3], [4]]
    """
    if each < 1:
        raise ValueError(f"classes_each: expected at least 1, got {each}")
    order = np.arange(classes) if order_seed is None else np.random.default_rng(order_seed).permutation(classes)
    return [order[start : start + each].tolist() for start in range(0, classes, each)]


def new_instances(labels: NDArray[np.int64], count: int, seed: int) -> Stream:
    """NI: `count` experiences, each with an equal share of the pictures of every class (sizes differ by at most one a class).

    Parameters
    ----------
    labels : int64 (N,), class of each picture.
    count : how many experiences.
    seed : draws the shares and shuffles the rows.

    Raises
    ------
    ValueError : `count` is less than 1, or a class has fewer pictures than that.

    Examples
    --------
    >>> stream = new_instances(np.array([0, 1] * 4), 2, seed=0)
    >>> [np.array([0, 1] * 4)[experience.rows].sum() for experience in stream]
    [np.int64(2), np.int64(2)]
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1 experience, got {count}")
    shares: list[list[NDArray[np.int64]]] = [[] for _ in range(count)]
    for index in np.unique(labels):
        rows = np.flatnonzero(labels == index)
        if len(rows) < count:
            raise ValueError(f"count: expected at most {len(rows)} experiences, since class {index} has no more pictures, got {count}")
        rows = np.random.default_rng((seed, count, int(index))).permutation(rows)
        for share, part in zip(shares, np.array_split(rows, count), strict=True):
            share.append(part)
    parts = (_generator(seed, number).permutation(np.concatenate(share)) for number, share in enumerate(shares))
    return Stream(tuple(Experience(f"share {number + 1}", rows) for number, rows in enumerate(parts)))


def listed(files: Sequence[str], lists: Mapping[str, Sequence[str]], seed: int) -> Stream:
    """Experiences as lists of files, such as CORe50's run files.

    Parameters
    ----------
    files : the file of each picture of the set.
    lists : files of each experience, by its name, in their order; pictures that the set does not hold (they may be held out) are
        passed over, and so is an experience of which nothing is left.
    seed : shuffles the rows of an experience.

    Raises
    ------
    ValueError : none of the files is in the set.
    """
    row_of = {file: row for row, file in enumerate(files)}
    experiences = []
    for number, (name, wanted) in enumerate(lists.items()):
        rows = np.array([row_of[file] for file in wanted if file in row_of], np.int64)
        if len(rows):
            experiences.append(Experience(name, _generator(seed, number).permutation(rows)))
    if not experiences:
        example = next((file for wanted in lists.values() for file in wanted), "nothing")
        raise ValueError(f"lists: expected files of the set, such as {files[0] if files else 'none'}, got {example}")
    return Stream(tuple(experiences))
