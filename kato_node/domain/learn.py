"""Learning: from an STM to a pattern (processor.md, sections 3 and 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kato_node.domain.config import Config
from kato_node.domain.state import EMPTY, Emotives, Metadata, SessionState, Stm, Vector

PREFIX = "PTRN|"
SYMBOLS_MIN = 2  # an STM with fewer is not learned

# As `repr` escapes them; every character from U+0080 up stands as it is.
_ESCAPES = {code: repr(chr(code))[1:-1] for code in (*range(0x20), 0x7F)} | {ord("\\"): "\\\\"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A learned STM, as one document holds it.

    Attributes:
        name: SHA-1 hex, without prefix.
        frequency: how often it was learned.
        emotives: the window, oldest first: one raw dict per observation.
        metadata: key -> the distinct values' texts, sorted; keys sorted.
        imports: the ids of the newest imports that this pattern was part of, oldest first: each applies once.
    """

    name: str
    events: Stm
    frequency: int
    emotives: tuple[Emotives, ...] = ()
    metadata: Mapping[str, tuple[str, ...]]
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """What one learn hands to the LTM.

    Attributes:
        name: the pattern's name, without prefix.
        emotives, metadata: the session's, one dict per observation that had any, oldest first.
        vectors: those unlearned until now.
        persistence: how many emotives the pattern's window keeps.
    """

    name: str
    events: Stm
    emotives: tuple[Emotives, ...]
    metadata: tuple[Metadata, ...]
    vectors: tuple[Vector, ...]
    persistence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """The outcome of an operation.

    Attributes:
        state: the session's next state.
        observed: of an observe, the STM with its event, before any auto-learn: what predictions by its unique_id are
            made from (an event is appended, predicted, and then perhaps learned).
        episode: what to learn into the LTM, with the state's commit; None: nothing.
        learned: the name to show, `PTRN|…`; "" if the STM was too short to learn; None if nothing was to be learned.
    """

    state: SessionState
    observed: Stm = ()
    episode: Episode | None = None
    learned: str | None = None


def pattern_name(events: Stm) -> str:
    """Return the pattern's name: the SHA-1 hex of its events, written as Python writes a list of lists of str."""
    text = ", ".join("[" + ", ".join(map(_quoted, event)) + "]" for event in events)
    return hashlib.sha1(f"[{text}]".encode(), usedforsecurity=False).hexdigest()


def _quoted(symbol: str) -> str:
    """Write a symbol as `repr` does, but for characters from U+0080 up: names depend on no Unicode version."""
    if symbol.isascii():
        return repr(symbol)
    escaped = symbol.translate(_ESCAPES)
    if "'" not in symbol:
        return f"'{escaped}'"
    if '"' not in symbol:
        return f'"{escaped}"'
    return "'" + escaped.replace("'", "\\'") + "'"


def display_name(name: str) -> str:
    """Return the name as the interfaces show it."""
    return PREFIX + name


def bare_name(pattern_id: str) -> str:
    """Return the name as storage keeps it, from an id with or without the prefix."""
    return pattern_id.removeprefix(PREFIX)


def learn(state: SessionState, *, config: Config) -> Transition:
    """Learn the STM and empty it, and what travels with it; time and percept stay.

    Returns: the episode to write, or none and the name "" if the STM has fewer than 2 symbols.
    """
    emptied = replace(EMPTY, time=state.time, percept=state.percept)
    if sum(map(len, state.stm)) < SYMBOLS_MIN:
        return Transition(state=emptied, learned="")
    episode = Episode(
        name=pattern_name(state.stm),
        events=state.stm,
        emotives=tuple(emotives for _, emotives in state.emotives),
        metadata=tuple(metadata for _, metadata in state.metadata),
        vectors=state.vectors,
        persistence=config.persistence,
    )
    return Transition(state=emptied, episode=episode, learned=display_name(episode.name))


def merged(pattern: Pattern | None, episode: Episode) -> Pattern:
    """Return the pattern after the episode: a new one with frequency 1, or the known one, once more."""
    known = pattern or Pattern(name=episode.name, events=episode.events, frequency=0, metadata={})
    return replace(
        known,
        frequency=known.frequency + 1,
        emotives=(*known.emotives, *episode.emotives)[-episode.persistence :],
        metadata=_folded(known.metadata, episode.metadata),
    )


def with_texts(
    known: Mapping[str, tuple[str, ...]], more: Mapping[str, Iterable[str]]
) -> Mapping[str, tuple[str, ...]]:
    """Return the union, per key, of two patterns' metadata."""
    texts = {key: set(values) for key, values in known.items()}
    for key, values in more.items():
        texts.setdefault(key, set()).update(values)
    return {key: tuple(sorted(texts[key])) for key in sorted(texts)}


def _folded(known: Mapping[str, tuple[str, ...]], metadata: tuple[Metadata, ...]) -> Mapping[str, tuple[str, ...]]:
    """Return the union, per key, of the known texts and the `str` of each value."""
    if not metadata:
        return known
    texts: dict[str, set[str]] = {}
    for entry in metadata:
        for key, value in entry.items():
            texts.setdefault(key, set()).add(str(value))
    return with_texts(known, texts)
