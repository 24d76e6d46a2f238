"""What the operations of one processor take and answer (api.md, section 1; processor.md, sections 2, 6 and 8).

These models are the published contract: OpenAPI is generated from them, and tests hold every reply to them. Requests
are checked by the domain, whose errors name the field; replies are sent as the services make them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.config import JsonDict

ConfigValue = bool | int | float | str | None
Events = list[list[str]]


def _without_default(schema: JsonDict) -> None:
    """Leave the default out of the published schema: what a caller leaves out stays as it is."""
    schema.pop("default", None)


class Request(BaseModel):
    """A body; an unknown field is a VALIDATION_ERROR that names it."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


class Reply(BaseModel):
    """A reply's body."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


class Read(Reply):
    """The answer to a reading call."""

    degraded: bool = Field(
        default=False, description="true: the store is out of reach, and the answer is as of the last time it was not"
    )


class Observation(Request):
    """The symbols, vectors, emotives and metadata of one moment; every field may be left out."""

    strings: list[str] = Field(default=[], description="symbols; sorted by code point unless `sort_symbols` is false")
    vectors: list[list[float]] = Field(default=[], description="all of one length; added element by element")
    emotives: dict[str, float] = {}
    metadata: dict[str, JsonValue] = {}
    unique_id: str | None = Field(
        default=None, description="names this moment for /predictions, in at most 256 characters; generated if null"
    )


class Sequence(Request):
    """Observations that are applied all or none."""

    observations: list[Observation]
    learn_after_each: bool = False
    learn_at_end: bool = Field(default=False, description="learn what the STM holds after the last one")
    clear_stm_between: bool = Field(default=False, description="clear the STM before each but the first")


class GenesUpdate(Request):
    """Configuration values to change, whole or not at all."""

    genes: dict[str, ConfigValue]


class ObservationResult(Reply):
    """What one observation did; `auto_learned_pattern` is null unless auto-learn triggered, "" if it was too short."""

    status: Literal["okay"]
    processor_id: str
    session_id: str
    auto_learned_pattern: str | None
    time: int
    stm_length: int
    unique_id: str


class SequenceItem(Reply):
    """What the observation at `sequence_position` did."""

    status: Literal["okay"]
    sequence_position: int
    stm_length: int
    time: int
    unique_id: str
    auto_learned_pattern: str | None


class SequenceResult(Reply):
    """What a sequence did; `auto_learned_patterns` has every name that was learned on the way."""

    status: Literal["completed"]
    processor_id: str
    session_id: str
    observations_processed: int
    initial_stm_length: int
    final_stm_length: int
    results: list[SequenceItem]
    auto_learned_patterns: list[str]
    final_learned_pattern: str | None
    isolated: bool


class Stm(Read):
    """The short-term memory, oldest event first."""

    stm: Events
    length: int
    processor_id: str
    session_id: str


class LearnResult(Reply):
    """The learned pattern's name; "" if the STM had fewer than 2 symbols."""

    pattern_name: str
    processor_id: str
    session_id: str
    message: str


class Cleared(Reply):
    """The acknowledgement of a clear."""

    status: Literal["okay"]
    message: Literal["stm-cleared", "all-cleared"]
    processor_id: str
    session_id: str


class Prediction(Reply):
    """One pattern that the STM resembles, and how; processor.md, section 6, has the formulas."""

    type: Literal["prototypical"]
    name: str = Field(description="of the pattern: `GET …/pattern/{name}` shows it")
    frequency: int = Field(description="how often the pattern was learned")
    emotives: dict[str, float] = Field(description="of the pattern, averaged over its window")
    metadata: dict[str, list[str]] = Field(description="of the pattern")
    matches: list[str] = Field(description="the observed symbols that the pattern has in the same order")
    past: Events = Field(description="the pattern's events before `present`")
    present: Events = Field(description="the pattern's events from the first that matched to the last")
    future: Events = Field(description="the pattern's events after `present`: what comes next")
    missing: Events = Field(description="for each event of `present` its symbols that were not observed")
    extras: Events = Field(description="for each event of the STM its symbols that are not in `present`")
    similarity: float = Field(description="0 to 1: twice the matches, among the symbols of pattern and STM together")
    evidence: float = Field(description="0 to 1: how much of the pattern was observed")
    confidence: float = Field(description="how much of `present` was observed")
    snr: float = Field(description="-1 to 1: matches against observed symbols without a match")
    fragmentation: float = Field(description="gaps between the runs of matches; 0: one run, -1: no match")
    potential: float = Field(description="(evidence + confidence)·snr + itfdf_similarity + 1/(fragmentation + 1)")
    itfdf_similarity: float = Field(description="0 to 1: likeness by symbols, weighted by frequency")
    entropy: float = Field(description="of the symbols of `present`, in bits")
    normalized_entropy: float = Field(description="the same, to the base of the number of all learned symbols")
    global_normalized_entropy: float = Field(description="likewise, of the shares of patterns that have the symbols")
    confluence: float = Field(description="the pattern's share of all learned, times how unlikely chance explains it")
    tfidf_score: float = Field(description="higher: `present` is of symbols that few patterns have")
    pattern_probability: float = Field(description="the pattern's frequency, among those of all candidates")
    bayesian_prior: float = Field(description="the same as pattern_probability")
    bayesian_likelihood: float = Field(description="the same as similarity")
    bayesian_posterior: float = Field(description="prior times likelihood, as a share of all candidates'")
    weighted_strength: float = Field(description="similarity times pattern_probability")
    predictive_information: float = Field(description="weighted_strength for the share of its future; 0 without one")
    sequence: Events = Field(description="all of the pattern's events")


class FuturePotential(Reply):
    """One future that predictions agree on, and its share."""

    future: Events
    aggregate_potential: float = Field(description="0 to 1: this future's share of the weighted frequency of all")
    supporting_patterns: int = Field(description="how many candidates expect it")
    total_weighted_frequency: float = Field(description="the sum of their frequencies, each times its similarity")


class Predictions(Read):
    """Predictions in rank order, and what they expect together."""

    predictions: list[Prediction]
    future_potentials: list[FuturePotential]
    count: int
    processor_id: str
    session_id: str


class Status(Read):
    """The processor, and the session's place in time."""

    status: Literal["okay"]
    processor_id: str
    processor_name: str
    uptime: float = Field(description="seconds")
    stm_length: int
    time: int
    patterns: int
    sessions: int
    epoch: int
    version: str


class Pattern(Reply):
    """A learned pattern; `emotives` is its window, oldest first."""

    name: str
    pattern_data: Events
    length: int
    frequency: int
    emotives: list[dict[str, float]]
    metadata: dict[str, list[str]]


class PatternReply(Read):
    """One pattern."""

    pattern: Pattern
    processor_id: str


class PatternUpdate(Request):
    """New values of a pattern; what is left out stays. Its events and its name never change."""

    frequency: int = Field(default=1, ge=1, le=2**53 - 1, json_schema_extra=_without_default)
    emotives: list[dict[str, float]] = Field(
        default=[], max_length=100, description="the whole window, oldest first", json_schema_extra=_without_default
    )
    metadata: dict[str, list[str]] = Field(default={}, description="all of it", json_schema_extra=_without_default)


class PatternUpdated(Reply):
    """The pattern as it is now."""

    pattern: Pattern
    processor_id: str


class PatternDeleted(Reply):
    """The pattern is gone."""

    status: Literal["deleted"]
    name: str


class Patterns(Read):
    """A page of patterns; `total` of the whole list, whose next page begins at `next_cursor` (null: there is none)."""

    patterns: list[Pattern]
    next_cursor: str | None
    total: int


class SymbolCount(Reply):
    """How often a symbol was learned, repeats included, and how many patterns contain it."""

    frequency: int
    pattern_member_frequency: int


class SymbolStatistics(Read):
    """Every learned symbol."""

    symbols: dict[str, SymbolCount]


class SymbolAffinities(Read):
    """Every learned symbol's emotives."""

    affinities: dict[str, dict[str, float]]


class Import(Request):
    """A header line, then one pattern a line, as /export gives them."""


class Imported(Reply):
    """What an import did; `skipped` are the patterns that the same import had brought before."""

    status: Literal["okay"]
    imported: int
    skipped: int
    processor_id: str
    session_id: str


class Metrics(Read):
    """What the node has done since it started, and the length of the session's STM."""

    observations_processed: int
    patterns_learned: int
    predictions_generated: int
    stm_size: int
    uptime_seconds: float
    processor_id: str


class GenesUpdated(Reply):
    """The session's configuration after an update."""

    status: Literal["okay"]
    message: Literal["genes-updated"]
    genes: dict[str, ConfigValue]
    processor_id: str
    session_id: str


class Gene(Read):
    """One value of the session's configuration."""

    gene_name: str
    gene_value: ConfigValue
    processor_id: str
    session_id: str


class Genes(Read):
    """The session's effective configuration."""

    genes: dict[str, ConfigValue]
    processor_id: str
    session_id: str


class Percept(Reply):
    """The latest observation as it was perceived."""

    strings: list[str]
    vectors: list[list[float]]
    emotives: dict[str, float]
    metadata: dict[str, JsonValue]
    path: list[str]


class NoPercept(Reply):
    """Before the first observation, and after a clear."""


class PerceptData(Read):
    """The session's percept."""

    percept_data: Percept | NoPercept
    processor_id: str
    session_id: str


class Cognition(Reply):
    """What the processor makes of the session's STM."""

    predictions: list[Prediction]
    emotives: dict[str, float]
    symbols: list[str]
    command: str
    metadata: dict[str, JsonValue]
    path: list[str]
    strings: list[str]
    vectors: list[list[float]]
    short_term_memory: Events
    time: int


class CognitionData(Read):
    """The session's cognition."""

    cognition_data: Cognition
    processor_id: str
    session_id: str


class Health(Reply):
    """A node that answers is healthy; a node of the pool has no processor yet."""

    status: Literal["healthy"]
    processor_id: str | None
    uptime: float = Field(description="seconds")
    stm_length: int
    memory_usage: int = Field(description="resident bytes")


class ErrorInfo(Reply):
    """What happened and what to do; `code` is stable."""

    code: str
    message: str
    details: dict[str, JsonValue]


class Error(Reply):
    """Every error, from every route."""

    error: ErrorInfo
    status: int
