"""The names of the headers that gateway, nodes and clients exchange; the one place that spells them."""

from __future__ import annotations

SESSION = "x-session-id"
REQUEST_ID = "x-request-id"
IDEMPOTENCY_KEY = "idempotency-key"
API_KEY = "x-api-key"

# Whom a forwarded request means (architecture.md, decision 6). Set by the gateway; a client's own copies are stripped.
PROCESSOR = "x-kato-processor"
EPOCH = "x-kato-epoch"
INCARNATION = "x-kato-incarnation"  # of the session: which of all that had, or will have, its id

# Proves a control call (bind, drain), by the secret of the node that is called. Never forwarded.
NODE_SECRET = "x-kato-secret"  # noqa: S105 - the header's name

GATEWAY_OWN = (PROCESSOR, EPOCH, INCARNATION, NODE_SECRET)
