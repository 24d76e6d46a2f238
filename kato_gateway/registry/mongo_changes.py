"""Changes as writes of MongoDB, on the collections of mongo_schema.py.

A write names what it replaces, so that one document is compared and set in one step; several make a transaction.
One that only reads a document does not conflict with another that writes it. So whatever brings a session to life
writes its processor's document, and so does whoever lets a purge be owed before it looks for live sessions: of two at
once, one is made again after the other, and sees it. That document says nothing else about sessions: it is made anew if
it is missing, and goes with a session's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from kato_gateway.domain.sessions import LIVE_STATUSES
from kato_gateway.registry.base import (
    Change,
    GatewayChange,
    LeftoverChange,
    NodeChange,
    OwnerChange,
    PurgeChange,
    SessionChange,
)
from kato_gateway.registry.documents import Plain, gateway_document, leftover_document, session_document
from kato_gateway.registry.mongo_schema import (
    GATEWAYS,
    LEFTOVERS,
    NODES,
    PROCESSORS,
    SESSIONS,
    VERSION,
    Database,
    put,
    versioned,
    versioned_node,
)

Session: TypeAlias = AsyncClientSession | None
Expected: TypeAlias = dict[str, str | int] | None

LIVING = sorted(status.value for status in LIVE_STATUSES)


@dataclass(slots=True, kw_only=True)
class Touch:
    """What is written of one processor: that it is used, whose it is, whether a purge is owed (None: as it was)."""

    uses: bool = False
    owner: str | None = None
    purge_owed: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One `apply`: first what is written of processors, by id, then the changes of other documents, in their order."""

    touches: dict[str, Touch]
    changes: Sequence[Change]

    @property
    def is_one_write(self) -> bool:
        """Whether one document is written and nothing else looked at."""
        return len(self.touches) + sum(2 if _forgets_processor(change) else 1 for change in self.changes) == 1

    @property
    def leaving(self) -> set[str]:
        """The gateways that serve no more, by their own word or another's."""
        changes = (change for change in self.changes if isinstance(change, GatewayChange))
        return {change.gateway.gateway_id for change in changes if not change.serves}


def planned(changes: Sequence[Change]) -> Plan | None:
    """Return the plan of these changes, None if they contradict each other."""
    touches: dict[str, Touch] = {}
    rest: list[Change] = []
    for change in changes:
        if not isinstance(change, OwnerChange) and not (isinstance(change, PurgeChange) and not change.owed):
            rest.append(change)
        if isinstance(change, OwnerChange):
            touch = touches.setdefault(change.processor_id, Touch())
            if touch.owner not in {None, change.owner}:
                return None
            touch.owner = change.owner
        elif isinstance(change, PurgeChange):
            touch = touches.setdefault(change.processor_id, Touch())
            touch.purge_owed = change.owed
            touch.uses |= change.owed
        elif isinstance(change, SessionChange) and change.after is not None and _brings_to_life(change):
            touches.setdefault(change.after.processor_id, Touch()).uses = True
    return Plan(touches=touches, changes=rest)


async def make(database: Database, plan: Plan, session: Session = None) -> bool:
    """Write what the plan says; False as soon as something may not be, with what was written before left to undo.

    Raises: PyMongoError.
    """
    for processor_id, touch in sorted(plan.touches.items()):
        if not await _touch(database, processor_id, touch, session):
            return False
    for change in plan.changes:
        if not await _make(database, change, session):
            return False
    return True


async def _touch(database: Database, processor_id: str, touch: Touch, session: Session) -> bool:
    collection, one = database[PROCESSORS], {"_id": processor_id}
    if not touch.uses and touch.owner is None:
        await collection.update_one(one, {"$unset": {"purge_owed": ""}}, session=session)
        return True
    fields: dict[str, object] = {"schema": VERSION}
    if touch.uses:
        fields["uses"] = {"$add": [{"$ifNull": ["$uses", 0]}, 1]}
    if touch.owner is not None:
        fields["owner"] = {"$ifNull": ["$owner", {"$literal": touch.owner}]}
    if touch.purge_owed is not None:
        fields["purge_owed"] = touch.purge_owed or "$$REMOVE"
    stored = await put(collection, one, [{"$set": fields}], session=session)
    return touch.owner in {None, stored.get("owner")}


async def _make(database: Database, change: Change, session: Session) -> bool:
    if isinstance(change, SessionChange):
        return await _make_session(database, change, session)
    if isinstance(change, NodeChange):
        return await _make_node(database, change, session)
    if isinstance(change, LeftoverChange):
        document = versioned(leftover_document(change.leftover))
        return await _keep(database, LEFTOVERS, document, kept=change.remember, session=session)
    if isinstance(change, GatewayChange):
        document = versioned(gateway_document(change.gateway))
        return await _keep(database, GATEWAYS, document, kept=change.serves, session=session)
    query = {"processor_id": change.processor_id, "status": {"$in": LIVING}}
    return await database[SESSIONS].find_one(query, {"_id": 1}, session=session) is None


async def _make_session(database: Database, change: SessionChange, session: Session) -> bool:
    before, after = change.before, change.after
    if before is not None and _forgets_processor(change):
        bare = {"_id": before.processor_id, "owner": None, "purge_owed": None}
        await database[PROCESSORS].delete_one(bare, session=session)
    expected: Expected = None
    if before is not None:
        expected = {"_id": before.session_id, "incarnation": before.incarnation, "version": before.version}
    document = versioned(session_document(after)) if after else None
    return await _compare_and_set(database, SESSIONS, expected, document, session)


async def _make_node(database: Database, change: NodeChange, session: Session) -> bool:
    before, after = change.before, change.after
    expected: Expected = None if before is None else {"_id": before.node_id, "version": before.version}
    document = versioned_node(after) if after else None
    return await _compare_and_set(database, NODES, expected, document, session)


async def _compare_and_set(
    database: Database,
    name: str,
    expected: Expected,
    document: dict[str, Plain] | None,
    session: Session,
) -> bool:
    collection = database[name]
    try:
        if expected is None:
            await collection.insert_one(document or {}, session=session)
            return True
        if document is None:
            return (await collection.delete_one(expected, session=session)).deleted_count == 1
        return (await collection.replace_one(expected, document, session=session)).matched_count == 1
    except DuplicateKeyError:  # the id is taken, or another node holds the processor
        return False


async def _keep(database: Database, name: str, document: dict[str, Plain], *, kept: bool, session: Session) -> bool:
    """Make the document stand as it is, or be gone; either may be so already."""
    one = {"_id": document["_id"]}
    if kept:
        await database[name].replace_one(one, document, upsert=True, session=session)
    else:
        await database[name].delete_one(one, session=session)
    return True


def _brings_to_life(change: SessionChange) -> bool:
    before, after = change.before, change.after
    if after is None or not after.live:
        return False
    return before is None or not before.live or before.processor_id != after.processor_id


def _forgets_processor(change: Change) -> bool:
    return isinstance(change, SessionChange) and change.after is None
