"""Observations, and what makes one valid (processor.md, section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kato_node.domain.errors import ValidationFailed
from kato_node.domain.limits import LIMITS, Limits
from kato_node.domain.state import Emotives, Json, Metadata, text_bytes

NUMBER_MAX = 1e100
UNIQUE_ID_CHARACTERS_MAX = 256  # a name, of which each session remembers a hundred
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The symbols, vectors, emotives and metadata of one moment; every field may be empty.

    Attributes:
        unique_id: the caller's name for it; None: the caller has none.
    """

    strings: Sequence[str] = ()
    vectors: Sequence[Sequence[float]] = ()
    emotives: Emotives = field(default_factory=dict)
    metadata: Metadata = field(default_factory=dict)
    unique_id: str | None = None


def validated(observation: Observation, *, limits: Limits = LIMITS, prefix: str = "") -> Observation:
    """Return the observation as the domain keeps it: tuples, numbers as floats, copies of dicts and lists, no -0.0.

    The fields may hold anything that JSON decodes to; their types are checked here.

    Args:
        prefix: what field names in errors begin with, such as "observations.3.".
    Raises: ValidationFailed, with the first 20 errors.
    """
    check = Check(limits)
    valid = Observation(
        strings=check.strings(f"{prefix}strings", observation.strings),
        vectors=check.vectors(f"{prefix}vectors", observation.vectors),
        emotives=check.emotives(f"{prefix}emotives", observation.emotives),
        metadata=check.metadata(f"{prefix}metadata", observation.metadata),
        unique_id=check.unique_id(f"{prefix}unique_id", observation.unique_id),
    )
    if check.errors:
        raise ValidationFailed(check.errors)
    return valid


class Check:
    """Collects errors; each method returns the clean value, or an empty one after an error.

    Attributes:
        errors: (field, message), in the order in which they were found.
    """

    def __init__(self, limits: Limits) -> None:
        self.errors: list[tuple[str, str]] = []
        self._limits = limits

    def strings(self, name: str, value: object) -> tuple[str, ...]:
        """Return the symbols of one event."""
        items = self.sequence(name, value)
        if len(items) > self._limits.symbols_per_event_max:
            self.reject(name, f"has {len(items)} symbols, more than {self._limits.symbols_per_event_max}")
            return ()
        short = self._limits.symbol_bytes_max
        # The usual item passes without a name being made for it.
        return tuple(
            item
            if isinstance(item, str) and item.isascii() and len(item) <= short
            else self.symbol(f"{name}.{i}", item)
            for i, item in enumerate(items)
        )

    def vectors(self, name: str, value: object) -> tuple[tuple[float, ...], ...]:
        """Return the vectors of one observation, all of one length."""
        vectors = tuple(self._vector(f"{name}.{i}", item) for i, item in enumerate(self.sequence(name, value)))
        if len({len(vector) for vector in vectors}) > 1:
            self.reject(name, "must all have the same length")
        return vectors

    def emotives(self, name: str, value: object) -> dict[str, float]:
        """Return named numbers."""
        return {key: self._number(f"{name}.{key}", item) for key, item in self.keyed(name, value).items()}

    def metadata(self, name: str, value: object) -> dict[str, Json]:
        """Return named JSON values, deeply copied."""
        return {key: self._json(f"{name}.{key}", item, depth=2) for key, item in self.keyed(name, value).items()}

    def unique_id(self, name: str, value: object) -> str | None:
        """Return the name of an observation."""
        if value is None:
            return None
        text = self.text(name, value)
        if len(text) > UNIQUE_ID_CHARACTERS_MAX:
            self.reject(name, f"has {len(text)} characters, more than {UNIQUE_ID_CHARACTERS_MAX}")
        return text

    def reject(self, name: str, message: str) -> None:
        """Note an error of the field."""
        self.errors.append((name, message))

    def sequence(self, name: str, value: object) -> Sequence[object]:
        """Return the list."""
        if isinstance(value, list | tuple):
            return value
        self.reject(name, "must be a list")
        return ()

    def text(self, name: str, value: object) -> str:
        """Return the string, which can be encoded."""
        if not isinstance(value, str):
            self.reject(name, "must be a string")
            return ""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.reject(name, "must not contain lone surrogates")
            return ""
        return value

    def symbol(self, name: str, value: object) -> str:
        """Return one symbol."""
        symbol = self.text(name, value)
        if (size := text_bytes(symbol)) > self._limits.symbol_bytes_max:
            self.reject(name, f"has {size} bytes, more than {self._limits.symbol_bytes_max}")
        return symbol

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.reject(name, "must be a number")
            return 0.0
        if not -NUMBER_MAX <= value <= NUMBER_MAX:  # also true of NaN
            self.reject(name, "must be a finite number within ±1e100")
            return 0.0
        return float(value) + 0.0  # -0.0 becomes 0.0

    def _vector(self, name: str, value: object) -> tuple[float, ...]:
        items = self.sequence(name, value)
        if not 1 <= len(items) <= self._limits.vector_length_max:
            self.reject(name, f"must have 1 to {self._limits.vector_length_max} values")
            return ()
        return tuple(
            item + 0.0
            if isinstance(item, float) and -NUMBER_MAX <= item <= NUMBER_MAX
            else self._number(f"{name}.{i}", item)
            for i, item in enumerate(items)
        )

    def keyed(self, name: str, value: object) -> Mapping[str, object]:
        """Return the object whose keys are storable at top level."""
        if not isinstance(value, Mapping):
            self.reject(name, "must be an object")
            return {}
        for key in value:
            text = self.text(f"{name}.{key}", key)
            if not text or text.startswith("$") or "." in text or "\0" in text:
                self.reject(f"{name}.{key}", "a key must not be empty, start with $, or contain . or NUL")
        return value

    def _json(self, name: str, value: object, *, depth: int) -> Json:
        """Return a deep copy of any JSON value, whose own items would be at that depth."""
        if isinstance(value, Mapping | list | tuple):
            return self._nested(name, value, depth)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            if value not in _INT64:
                self.reject(name, "must be an integer of at most 64 bits")
            return value
        return self._number(name, value) if isinstance(value, float) else self.text(name, value)

    def _nested(self, name: str, value: Mapping[str, object] | Sequence[object], depth: int) -> Json:
        if depth > self._limits.metadata_depth_max:
            self.reject(name, f"is nested deeper than {self._limits.metadata_depth_max}")
            return None
        if isinstance(value, Mapping):
            return {self.text(name, key): self._json(name, item, depth=depth + 1) for key, item in value.items()}
        return [self._json(name, item, depth=depth + 1) for item in value]
