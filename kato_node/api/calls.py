"""The operations, whatever brings them: a decoded body in, the service's reply out. HTTP and WebSocket share these."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import dataclass
from typing import TypeAlias

from kato_node.domain.edit import validated_edit
from kato_node.domain.observation import Observation
from kato_node.patterns import ProcessorPatterns
from kato_node.reads import ProcessorReads
from kato_node.service import ProcessorService, Reply, RetryKey, SequenceRequest
from kato_node.wire import paging, strict_json
from kato_node.wire.errors import InvalidRequest
from kato_node.wire.operations import Operation
from kato_node.wire.strict_json import Json

_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_OBSERVATION = frozenset({"strings", "vectors", "emotives", "metadata", "unique_id"})
_PATTERN = frozenset({"frequency", "emotives", "metadata"})
_SEQUENCE_FLAGS = frozenset({"learn_after_each", "learn_at_end", "clear_stm_between"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an operation.

    Attributes:
        session_id: None for the processor's own or default session.
        body: as decoded.
        arguments: the operation's parameters, from the path, the query or a message's payload.
    """

    service: ProcessorService
    reads: ProcessorReads
    patterns: ProcessorPatterns
    session_id: str | None
    body: Json
    arguments: Mapping[str, str]
    retry: RetryKey | None = None


Handler: TypeAlias = Callable[[Call], Awaitable[Reply]]


def retry_key(
    operation: Operation, key: str | None, body: Json, arguments: Mapping[str, str], *, field: str
) -> RetryKey | None:
    """Return what makes the call repeatable, None without a key. Raises: InvalidRequest, naming `field`."""
    if key is None or not operation.mutating:
        return None
    if not _KEY.fullmatch(key):
        raise InvalidRequest([(field, "must be 1 to 255 printable ASCII characters")])
    meant = {"operation": operation.name, "arguments": arguments, "body": body}
    return RetryKey(key=key, body_hash=hashlib.sha256(strict_json.canonical(meant)).hexdigest())


async def _observe(call: Call) -> Reply:
    return await call.service.observe(call.session_id, _observation(call.body), retry=call.retry)


async def _observe_sequence(call: Call) -> Reply:
    body = _known(call.body, {"observations", *_SEQUENCE_FLAGS})
    observations = body.get("observations")
    if not isinstance(observations, list):
        raise InvalidRequest([("observations", "must be a list")])
    if len(observations) > (most := call.service.limits.observations_max):  # said before a value is made of each
        raise InvalidRequest([("observations", f"has {len(observations)} observations, more than {most}")])
    bad = [(name, "must be true or false") for name in sorted(_SEQUENCE_FLAGS & set(body)) if not _is_flag(body[name])]
    if bad:
        raise InvalidRequest(bad)
    items = [_observation(item, f"observations.{index}") for index, item in enumerate(observations)]
    flags = {name: body.get(name) is True for name in _SEQUENCE_FLAGS}
    request = SequenceRequest(observations=items, **flags)
    return await call.service.observe_sequence(call.session_id, request, retry=call.retry)


async def _learn(call: Call) -> Reply:
    _known(call.body, frozenset())
    return await call.service.learn(call.session_id, retry=call.retry)


async def _clear_stm(call: Call) -> Reply:
    _known(call.body, frozenset())
    return await call.service.clear_stm(call.session_id, retry=call.retry)


async def _clear_all(call: Call) -> Reply:
    _known(call.body, frozenset())
    return await call.service.clear_all(call.session_id, retry=call.retry)


async def _update_genes(call: Call) -> Reply:
    genes = _known(call.body, {"genes"}).get("genes")
    if not isinstance(genes, dict):
        raise InvalidRequest([("genes", "must be an object")])
    return await call.service.update_genes(call.session_id, genes, retry=call.retry)


async def _stm(call: Call) -> Reply:
    _known(call.body, frozenset())
    return await call.reads.stm(call.session_id)


async def _predictions(call: Call) -> Reply:
    _known(call.body, frozenset())
    return await call.reads.predictions(call.session_id, call.arguments.get("unique_id"))


async def _status(call: Call) -> Reply:
    return await call.reads.status(call.session_id)


async def _pattern(call: Call) -> Reply:
    return await call.reads.pattern(call.arguments["id"])


async def _update_pattern(call: Call) -> Reply:
    edit = validated_edit(_known(call.body, _PATTERN), limits=call.service.limits)
    return await call.patterns.update(call.session_id, call.arguments["id"], edit, retry=call.retry)


async def _delete_pattern(call: Call) -> Reply:
    return await call.patterns.delete(call.session_id, call.arguments["id"], retry=call.retry)


async def _patterns(call: Call) -> Reply:
    limit, after = paging.asked(call.arguments)
    contains = call.arguments.get("contains")
    page, following = await call.patterns.page(after=after, limit=limit, contains=contains)
    return {**page, "next_cursor": None if following is None else paging.cursor(following)}


async def _symbol_statistics(call: Call) -> Reply:
    return await call.patterns.symbol_statistics()


async def _symbol_affinities(call: Call) -> Reply:
    return await call.patterns.symbol_affinities()


async def _gene(call: Call) -> Reply:
    return await call.reads.gene(call.session_id, call.arguments["name"])


async def _genes(call: Call) -> Reply:
    return await call.reads.genes(call.session_id)


async def _percept_data(call: Call) -> Reply:
    return await call.reads.percept_data(call.session_id)


async def _cognition_data(call: Call) -> Reply:
    return await call.reads.cognition_data(call.session_id)


# By the operation's name. Not here are those whose replies, or bodies, are not one JSON value; and /health, which asks
# neither session nor store, and is no activity.
HANDLERS: Mapping[str, Handler] = {
    "observe": _observe,
    "observe_sequence": _observe_sequence,
    "stm": _stm,
    "learn": _learn,
    "predictions": _predictions,
    "status": _status,
    "pattern": _pattern,
    "update_pattern": _update_pattern,
    "delete_pattern": _delete_pattern,
    "patterns": _patterns,
    "symbol_statistics": _symbol_statistics,
    "symbol_affinities": _symbol_affinities,
    "update_genes": _update_genes,
    "gene": _gene,
    "genes": _genes,
    "percept_data": _percept_data,
    "cognition_data": _cognition_data,
    "clear_stm": _clear_stm,
    "clear_all": _clear_all,
}


def _observation(body: Json, at: str = "") -> Observation:
    """Return the observation as sent: which fields there are is checked here, what they hold by the domain."""
    fields = _known(body, _OBSERVATION, at)
    return Observation(**fields)  # type: ignore[arg-type]  # the domain takes whatever JSON decodes to


def _known(body: Json, names: Set[str], at: str = "") -> Mapping[str, Json]:
    """Return the body, an object with no other fields than `names`. Raises: InvalidRequest."""
    if not isinstance(body, dict):
        raise InvalidRequest([(at or "body", "must be an object")])
    if unknown := body.keys() - names:
        message = f"unknown field; known are {', '.join(sorted(names)) or 'none'}"
        raise InvalidRequest([(f"{at}.{name}" if at else name, message) for name in sorted(unknown)])
    return body


def _is_flag(value: Json) -> bool:
    return isinstance(value, bool)
