"""How nodes and static processors are named."""

from __future__ import annotations

import hashlib
import json
import re

_PART_MAX = 40


def name_for_people(user_id: str, session_id: str, created_at_s: float) -> str:
    """Return `kato-<user>-<session>-<time>`, fit for a container's name; time in whole seconds since the epoch."""
    return f"kato-{_part(user_id)}-{_part(session_id)}-{int(created_at_s)}"


def processor_id_for(user_id: str, session_id: str) -> str:
    """Return the id of the static processor of a user's session: the same pair, the same memory.

    Readable, safe in a path and a file name, at most 94 characters; the digest keeps a-b/c and a/b-c apart.
    """
    digest = hashlib.sha256(json.dumps([user_id, session_id]).encode()).hexdigest()
    return f"{_part(user_id)}-{_part(session_id)}-{digest[:12]}"


def node_id_for(processor_id: str) -> str:
    """Return the id of the node that serves a static processor, of the form of `spec.new_node_id()`.

    Being derived, it needs no record: whoever knows the processor finds its node, and there can be only one.
    """
    return hashlib.sha256(processor_id.encode()).hexdigest()[:12]


def _part(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:_PART_MAX].strip("-_.") or "x"
