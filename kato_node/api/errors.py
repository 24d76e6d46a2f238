"""What callers are told of the services' exceptions: each has a code, and the code its status (wire.errors)."""

from __future__ import annotations

import logging
import math

from kato_node.domain.errors import DomainError, ValidationFailed
from kato_node.errors import ServiceError
from kato_node.store.base import CommitUnknown, Fenced, StoreError, StoreFull
from kato_node.wire.errors import ErrorReply, InvalidRequest
from kato_node.wire.web import wire_reply

_log = logging.getLogger(__name__)


def translate(error: Exception) -> ErrorReply | None:
    """Return what the caller is told; None for an exception that is nobody's answer but a mistake of ours."""
    if isinstance(error, ValidationFailed):
        return wire_reply(InvalidRequest(error.errors))  # the same words whoever found the fault
    if isinstance(error, DomainError):
        return ErrorReply(code=error.code, message=error.message, details=error.details)
    if isinstance(error, ServiceError):
        retry = {} if error.retry_after_s is None else _retry_after(error.retry_after_s)
        return ErrorReply(code=error.code, message=error.message, details=error.details, headers=retry)
    if isinstance(error, StoreError):
        _log.warning("store_failed", extra={"code": error.code, "reason": str(error)})
        retry = {} if isinstance(error, Fenced) else _retry_after(error.retry_after_s)
        return ErrorReply(code=error.code, message=_store_message(error), headers=retry)
    return None


def _retry_after(wait_s: float) -> dict[str, str]:
    return {"Retry-After": str(math.ceil(wait_s))}


def _store_message(error: StoreError) -> str:
    """Say what became of the call. The store's own words name files and hosts: they are for the log."""
    if isinstance(error, Fenced):
        return "Another node has taken this processor over; nothing was applied. Repeat the call."
    if isinstance(error, CommitUnknown):
        return "The store did not confirm the write, which may be applied or not; repeat the call with the same key."
    if isinstance(error, StoreFull):
        return "The disk of the store is full; this call has applied nothing. Free some space and try again."
    return "The store is out of reach; this call has applied nothing. Try again."
