"""Settings of a method as plain values: which are known, and what fits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class MethodSettings:
    """What every method's settings share: reading them with a clear error, and simple range checks."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read plain values; ValueError for a key that the method does not have, or a value of the wrong type."""
        types = {field.name: field.type for field in fields(cls)}
        for key, value in values.items():
            if key not in types:
                raise ValueError(f"{key}: expected settings out of {', '.join(types) or 'none'}, got {key}; leave it out or correct it")
            kind = str(types[key])
            right = {
                "bool": isinstance(value, bool),
                "int": isinstance(value, int) and not isinstance(value, bool),
                "float": isinstance(value, int | float) and not isinstance(value, bool),
                "str": isinstance(value, str),
                "int | None": value is None or (isinstance(value, int) and not isinstance(value, bool)),
            }[kind]
            if not right:
                raise ValueError(f"{key}: expected {kind}, got {value!r}")
            if kind in ("int", "float") and value < 0:
                raise ValueError(f"{key}: expected 0 or more, got {value!r}")
        return cls(**values)

    def one_of(self, name: str, *values: str) -> None:
        """ValueError unless this field is one of the values."""
        if getattr(self, name) not in values:
            raise ValueError(f"{name}: expected one of {', '.join(values)}, got {getattr(self, name)!r}")

    def positive(self, *names: str) -> None:
        """ValueError unless these fields are above 0."""
        for name in names:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)!r}")
