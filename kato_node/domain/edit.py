"""Correcting what was learned: a pattern's values replaced, or the pattern deleted with every trace of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kato_node.domain.errors import PatternNotFound, ValidationFailed
from kato_node.domain.learn import Pattern, bare_name
from kato_node.domain.limits import LIMITS, Limits
from kato_node.domain.ltm import LtmChange, LtmReader, added
from kato_node.domain.observation import Check
from kato_node.domain.state import Emotives, flattened

FREQUENCY_MAX = 2**53 - 1  # exact in every reader of JSON
WINDOW_MAX = 100  # the greatest `persistence`

_FIELDS = ("frequency", "emotives", "metadata")


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternEdit:
    """New values of a pattern; None: as it is.

    Attributes:
        frequency: 1..FREQUENCY_MAX.
        emotives: the whole window, oldest first, at most WINDOW_MAX.
        metadata: all of it: key -> distinct texts, sorted; keys sorted.
    """

    frequency: int | None = None
    emotives: tuple[Emotives, ...] | None = None
    metadata: Mapping[str, tuple[str, ...]] | None = None


def validated_edit(fields: Mapping[str, object], *, limits: Limits = LIMITS) -> PatternEdit:
    """Return the edit that these fields, of anything that JSON decodes to, ask for. Raises: ValidationFailed."""
    check = Check(limits)
    for name in fields.keys() - set(_FIELDS):
        check.reject(name, f"unknown field; known are {', '.join(_FIELDS)}")
    given = {name: fields[name] for name in _FIELDS if name in fields}
    edit = PatternEdit(
        frequency=checked_frequency(check, given["frequency"]) if "frequency" in given else None,
        emotives=checked_window(check, given["emotives"]) if "emotives" in given else None,
        metadata=checked_metadata(check, given["metadata"]) if "metadata" in given else None,
    )
    if check.errors:
        raise ValidationFailed(check.errors)
    return edit


def checked_frequency(check: Check, value: object) -> int:
    """Return the frequency, or 1 after an error."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= FREQUENCY_MAX:
        return value
    check.reject("frequency", f"must be an integer, 1 to {FREQUENCY_MAX}")
    return 1


def checked_window(check: Check, value: object) -> tuple[Emotives, ...]:
    """Return the window of emotives, or an empty one after an error."""
    items = check.sequence("emotives", value)
    if len(items) > WINDOW_MAX:
        check.reject("emotives", f"has {len(items)} entries, more than {WINDOW_MAX}")
        return ()
    return tuple(check.emotives(f"emotives.{index}", item) for index, item in enumerate(items))


def checked_metadata(check: Check, value: object) -> Mapping[str, tuple[str, ...]]:
    """Return the metadata: each key's distinct texts, sorted, as learning keeps them."""
    texts = {
        key: {check.text(f"metadata.{key}.{index}", item) for index, item in enumerate(_texts(check, key, items))}
        for key, items in check.keyed("metadata", value).items()
    }
    return {key: tuple(sorted(texts[key])) for key in sorted(texts)}


def edited(ltm: LtmReader, pattern_id: str, edit: PatternEdit, *, limits: Limits = LIMITS) -> LtmChange:
    """Return the change that puts the pattern as the edit wants it.

    Args:
        pattern_id: with or without prefix.
    Raises: PatternNotFound, MemoryTooLarge.
    """
    pattern = _found(ltm, pattern_id)
    changed = replace(
        pattern,
        frequency=pattern.frequency if edit.frequency is None else edit.frequency,
        emotives=pattern.emotives if edit.emotives is None else edit.emotives,
        metadata=pattern.metadata if edit.metadata is None else edit.metadata,
    )
    return added(ltm, changed, limits=limits)


def deleted(ltm: LtmReader, pattern_id: str) -> LtmChange:
    """Return the change that deletes the pattern, and the learned vectors that no other pattern contains.

    Args:
        pattern_id: with or without prefix.
    Raises: PatternNotFound.
    """
    pattern = _found(ltm, pattern_id)
    symbols = set(flattened(pattern.events)) & ltm.vectors.keys()
    forgotten = tuple(sorted(symbol for symbol in symbols if ltm.vector_uses(symbol) == 1))
    return LtmChange(
        deleted=(pattern.name,),
        forgotten=forgotten,
        dimensionless=bool(forgotten) and len(forgotten) == len(ltm.vectors),
    )


def _texts(check: Check, key: str, value: object) -> Sequence[object]:
    return check.sequence(f"metadata.{key}", value)


def _found(ltm: LtmReader, pattern_id: str) -> Pattern:
    pattern = ltm.get(bare_name(pattern_id))
    if pattern is None:
        raise PatternNotFound(pattern_id)
    return pattern
