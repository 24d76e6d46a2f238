"""The operations of one processor, as a table: path, aliases, body, reply, example, and their WebSocket messages.

HTTP routes, WebSocket messages and OpenAPI (the gateway's, for what it forwards, too) are made from it, so that the
same operation has the same path tail, body, reply and error everywhere. Source: api.md, section 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kato_node.wire import schemas
from kato_node.wire.strict_json import Json

PAGE_MAX = 1_000
"""Items of one page of a list."""
PAGE_DEFAULT = 100

JSON = "application/json"
LINES = "application/x-ndjson"
"""JSON values, one a line."""
TEXT = "text/plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter in the path or, if it is not there, in the query; `example` is one that works."""

    description: str
    example: str | None = None
    schema: Mapping[str, Json] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation.

    Attributes:
        name: unique; part of what an Idempotency-Key stands for.
        methods: each of them means the same.
        paths: the first is the documented one, the others are aliases; all share the parameter in braces, if any.
        parameters: by name.
        request: the body's model; None where the body, if any, is an empty object.
        example: a body that works when sent to a new processor, in the order of the table.
        reply_media: the media types of the reply, its own first; `reply` is the model of JSON alone.
        lines: the body is a stream of JSON lines of any length, read as it comes.
        mutating: it changes the session or the processor, and so takes an Idempotency-Key. (An import changes them
            too, and has its header line for a key.)
        creating: where it makes something new it answers 201.
        by_session: X-Session-ID matters to it.
    """

    name: str
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    summary: str
    reply: type[schemas.Reply]
    request: type[schemas.Request] | None = None
    example: Mapping[str, Json] | str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    reply_media: tuple[str, ...] = (JSON,)
    lines: bool = False
    mutating: bool = False
    creating: bool = False
    by_session: bool = True


# The pattern [['a', 'b']], which the example of observe-sequence learns whatever was observed before.
_EXAMPLE_PATTERN = "395314cc2f2880a00c3e6e11f1e02d8b8c45a0e4"
_PATTERN = {"id": Parameter(description="a pattern's name, with or without `PTRN|`", example=_EXAMPLE_PATTERN)}
PAGE: Mapping[str, Parameter] = {
    "limit": Parameter(
        description="how many at most", example="100", schema={"type": "integer", "minimum": 1, "maximum": PAGE_MAX}
    ),
    "cursor": Parameter(description="a reply's `next_cursor`: what follows it"),
}
_EXAMPLE_IMPORT = f"""\
{{"format": "kato-patterns", "version": 1, "patterns": 1}}
{{"name": "PTRN|{_EXAMPLE_PATTERN}", "pattern_data": [["a", "b"]], "frequency": 1}}
"""

OPERATIONS = (
    Operation(
        name="observe",
        methods=("POST",),
        paths=("/observe",),
        summary="Observe one moment",
        request=schemas.Observation,
        example={"strings": ["hello", "world"], "emotives": {"joy": 0.5}, "metadata": {"source": "docs"}},
        reply=schemas.ObservationResult,
        mutating=True,
    ),
    Operation(
        name="observe_sequence",
        methods=("POST",),
        paths=("/observe-sequence",),
        summary="Observe several moments, all or none",
        request=schemas.Sequence,
        example={
            "observations": [{"strings": ["hello"]}, {"strings": ["a", "b"]}],
            "clear_stm_between": True,
            "learn_at_end": True,
        },
        reply=schemas.SequenceResult,
        mutating=True,
    ),
    Operation(
        name="stm",
        methods=("GET",),
        paths=("/stm", "/short-term-memory"),
        summary="Read the short-term memory",
        reply=schemas.Stm,
    ),
    Operation(
        name="learn",
        methods=("POST",),
        paths=("/learn",),
        summary="Learn the short-term memory as a pattern, and empty it",
        reply=schemas.LearnResult,
        mutating=True,
    ),
    Operation(
        name="predictions",
        methods=("GET", "POST"),
        paths=("/predictions",),
        summary="Predict from the short-term memory",
        parameters={"unique_id": Parameter(description="predict from the STM as it was right after that observation")},
        reply=schemas.Predictions,
    ),
    Operation(
        name="status",
        methods=("GET",),
        paths=("/status",),
        summary="The processor's and the session's figures",
        reply=schemas.Status,
    ),
    Operation(
        name="pattern",
        methods=("GET",),
        paths=("/pattern/{id}",),
        summary="Read one learned pattern",
        parameters=_PATTERN,
        reply=schemas.PatternReply,
        by_session=False,
    ),
    Operation(
        name="update_pattern",
        methods=("PUT",),
        paths=("/pattern/{id}",),
        summary="Correct a learned pattern: what is given replaces what it has",
        parameters=_PATTERN,
        request=schemas.PatternUpdate,
        example={"frequency": 3, "emotives": [{"joy": 0.5}], "metadata": {"source": ["docs"]}},
        reply=schemas.PatternUpdated,
        mutating=True,
    ),
    Operation(
        name="delete_pattern",
        methods=("DELETE",),
        paths=("/pattern/{id}",),
        summary="Delete a learned pattern, and every trace of it",
        parameters=_PATTERN,
        reply=schemas.PatternDeleted,
        mutating=True,
    ),
    Operation(
        name="import",
        methods=("POST",),
        paths=("/import",),
        summary="Merge exported patterns into the processor's; may be sent again until it succeeds",
        request=schemas.Import,
        example=_EXAMPLE_IMPORT,
        lines=True,
        reply=schemas.Imported,
    ),
    Operation(
        name="export",
        methods=("GET",),
        paths=("/export",),
        summary="Export every pattern, as lines that an import reads",
        reply=schemas.Reply,
        reply_media=(LINES,),
        by_session=False,
    ),
    Operation(
        name="patterns",
        methods=("GET",),
        paths=("/patterns",),
        summary="List the learned patterns by name",
        parameters={**PAGE, "contains": Parameter(description="only patterns with this symbol", example="a")},
        reply=schemas.Patterns,
        by_session=False,
    ),
    Operation(
        name="symbol_statistics",
        methods=("GET",),
        paths=("/symbols/stats",),
        summary="How often each symbol was learned, and in how many patterns it is",
        reply=schemas.SymbolStatistics,
        by_session=False,
    ),
    Operation(
        name="symbol_affinities",
        methods=("GET",),
        paths=("/symbols/affinity",),
        summary="Each symbol's emotives: summed over the patterns that contain it, each pattern's mean",
        reply=schemas.SymbolAffinities,
        by_session=False,
    ),
    Operation(
        name="update_genes",
        methods=("POST",),
        paths=("/genes/update",),
        summary="Change the session's configuration, whole or not at all",
        request=schemas.GenesUpdate,
        example={"genes": {"recall_threshold": 0.2, "max_predictions": 50}},
        reply=schemas.GenesUpdated,
        mutating=True,
    ),
    Operation(
        name="gene",
        methods=("GET",),
        paths=("/gene/{name}",),
        summary="Read one configuration value",
        parameters={"name": Parameter(description="a configuration name", example="recall_threshold")},
        reply=schemas.Gene,
    ),
    Operation(
        name="genes",
        methods=("GET",),
        paths=("/genes",),
        summary="Read the session's configuration",
        reply=schemas.Genes,
    ),
    Operation(
        name="percept_data",
        methods=("GET",),
        paths=("/percept-data",),
        summary="Read the latest observation as it was perceived",
        reply=schemas.PerceptData,
    ),
    Operation(
        name="cognition_data",
        methods=("GET",),
        paths=("/cognition-data",),
        summary="Read predictions, emotives and short-term memory together",
        reply=schemas.CognitionData,
    ),
    Operation(
        name="clear_stm",
        methods=("POST",),
        paths=("/clear-stm", "/clear-short-term-memory"),
        summary="Empty the session's state; patterns stay",
        reply=schemas.Cleared,
        mutating=True,
    ),
    Operation(
        name="clear_all",
        methods=("POST",),
        paths=("/clear-all", "/clear-all-memory"),
        summary="Empty the session's state and delete every pattern of the processor",
        reply=schemas.Cleared,
        mutating=True,
    ),
    Operation(
        name="metrics",
        methods=("GET",),
        paths=("/metrics",),
        summary="What the node has done since it started: JSON, or Prometheus text if that is preferred",
        reply=schemas.Metrics,
        reply_media=(JSON, TEXT),
    ),
    Operation(
        name="health",
        methods=("GET",),
        paths=("/health",),
        summary="Whether the node is alive",
        reply=schemas.Health,
    ),
)
BY_NAME: Mapping[str, Operation] = {operation.name: operation for operation in OPERATIONS}


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageType:
    """A WebSocket message: the operation that its payload is the body of, and the type of the reply."""

    operation: Operation
    reply: str


MESSAGES: Mapping[str, MessageType] = {
    "observe": MessageType(operation=BY_NAME["observe"], reply="observation_result"),
    "observe_sequence": MessageType(operation=BY_NAME["observe_sequence"], reply="sequence_result"),
    "get_stm": MessageType(operation=BY_NAME["stm"], reply="stm"),
    "get_predictions": MessageType(operation=BY_NAME["predictions"], reply="predictions"),
    "learn": MessageType(operation=BY_NAME["learn"], reply="learn_result"),
    "clear_stm": MessageType(operation=BY_NAME["clear_stm"], reply="status"),
    "clear_all": MessageType(operation=BY_NAME["clear_all"], reply="status"),
}
