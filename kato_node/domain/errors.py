"""What the domain refuses, each with a stable code and without a word of HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class DomainError(Exception):
    """A call that the processor refuses; nothing was applied.

    Attributes:
        code: stable, as in api.md, section 4.
        message: what happened and what to do.
        details: JSON-able facts for programs.
    """

    code = "DOMAIN_ERROR"

    def __init__(self, message: str, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, object] = {} if details is None else details


ERRORS_MAX = 20  # a caller needs the first few, not ten thousand


class ValidationFailed(DomainError):
    """Input that breaks the rules of processor.md, sections 2 or 8.

    Attributes:
        errors: (field, message) of the first 20; details.errors lists the same. Lone surrogates of a field's name are
            escaped, so that it can be sent.
    """

    code = "VALIDATION_ERROR"

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        self.errors = tuple(
            (field.encode("utf-8", "backslashreplace").decode(), message) for field, message in errors[:ERRORS_MAX]
        )
        listed = [{"field": field, "message": message} for field, message in self.errors]
        super().__init__("; ".join(f"{field}: {message}" for field, message in self.errors), {"errors": listed})


class VectorDimensionMismatch(DomainError):
    """A vector of another length than the processor's, or the session's, first."""

    code = "VECTOR_DIMENSION_MISMATCH"

    def __init__(self, *, expected: int, actual: int) -> None:
        super().__init__(
            f"The vector has {actual} values where {expected} are expected: send vectors of one length.",
            {"expected": expected, "actual": actual},
        )


class MemoryTooLarge(DomainError):
    """The STM, what travels with it, or a pattern would outgrow its limit."""

    code = "MEMORY_TOO_LARGE"

    def __init__(
        self, *, what: str, actual: int, limit: int, unit: str, advice: str = "learn or clear-stm empties the STM"
    ) -> None:
        super().__init__(
            f"The {what} would have {actual} {unit}, more than {limit}: {advice}.",
            {"what": what, "actual": actual, "limit": limit, "unit": unit},
        )


class PatternNotFound(DomainError):
    """No pattern of this processor has that name."""

    code = "PATTERN_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"This processor has no pattern {name!r}; GET /patterns lists its patterns.", {"name": name})


class GeneNotFound(DomainError):
    """No configuration value has that name."""

    code = "GENE_NOT_FOUND"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"There is no gene {name!r}; known are {', '.join(known)}.", {"name": name})
