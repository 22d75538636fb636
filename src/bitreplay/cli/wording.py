"""What several commands say in the same words: how many of a thing, which names, what a lesson is doing."""

from __future__ import annotations

# What the learner calls the phases of a lesson, in the words of a user.
PHASES = {"train": "training", "tail": "training the tail"}


def count(number: int, what: str) -> str:
    """How many there are: "1 lesson", "1,024 lessons"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def count_classes(names: list[str]) -> str:
    """How many classes these are."""
    return "1 class" if len(names) == 1 else f"{len(names)} classes"


def listed(names: list[str], most: int = 12) -> str:
    """The first `most` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
