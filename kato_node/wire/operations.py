"""The operations of one processor, as a table: path, aliases, body, reply, example, and their WebSocket messages.

HTTP routes, WebSocket messages and OpenAPI (the gateway's, for what it forwards, too) are made from it, so that the
same operation has the same path tail, body, reply and error everywhere. Source: api.md, section 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kato_node.wire import schemas
from kato_node.wire.strict_json import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation.

    Attributes:
        name: unique; part of what an Idempotency-Key stands for.
        methods: each of them means the same.
        paths: the first is the documented one, the others are aliases; all share the parameter in braces, if any.
        parameters: name -> (description, example), of those in the path and, if not there, in the query.
        request: the body's model; None where the body, if any, is an empty object.
        example: a body that works when sent to a new processor, in the order of the table.
        mutating: it changes the session or the processor, and so takes an Idempotency-Key.
        by_session: X-Session-ID matters to it.
    """

    name: str
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    summary: str
    reply: type[schemas.Reply]
    request: type[schemas.Request] | None = None
    example: Mapping[str, Json] | None = None
    parameters: Mapping[str, tuple[str, str | None]] | None = None
    mutating: bool = False
    by_session: bool = True


# The pattern [['a', 'b']], which the example of observe-sequence learns whatever was observed before.
_EXAMPLE_PATTERN = "395314cc2f2880a00c3e6e11f1e02d8b8c45a0e4"

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
        parameters={"unique_id": ("predict from the STM as it was right after that observation", None)},
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
        parameters={"id": ("a pattern's name, with or without `PTRN|`", _EXAMPLE_PATTERN)},
        reply=schemas.PatternReply,
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
        parameters={"name": ("a configuration name", "recall_threshold")},
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
