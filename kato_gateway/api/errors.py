"""From what goes wrong inside to what a client is told: the one translation of the gateway's errors."""

from __future__ import annotations

import math

from kato_gateway.dataplane.plane import Refused
from kato_gateway.domain.errors import GatewayError
from kato_node.wire.errors import STATUS, ErrorReply


def translate(error: Exception) -> ErrorReply | None:
    """Return the reply for an error of ours; None for one that nobody foresaw, which is logged."""
    if isinstance(error, Refused):
        return error.reply
    if not isinstance(error, GatewayError) or error.code not in STATUS or error.code == "INTERNAL_ERROR":
        return None
    retry = {} if error.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    return ErrorReply(code=error.code, message=error.message, details=error.details, headers=retry)
