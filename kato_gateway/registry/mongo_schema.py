"""What the registry keeps in MongoDB, beside the collections of the processors' stores in the same database.

    gateway_sessions     _id = session                        the session's document
    gateway_nodes        _id = node                           the node's document, and what it `holds`, while it does
    gateway_processors   _id = processor                      {uses, owner?, purge_owed?}
    gateway_leftovers    _id = processor/session/incarnation  the leftover's document
    gateway_gateways     _id = gateway                        the gateway's document
    gateway_writers      _id = gateway                        {sessions}: the server's, of the gateway's transactions
    gateway_facts        _id = name                           {value}; `/schema` is the newest version that was here

Each document says in `schema` which version of this wrote it; one of a newer version is never read as ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from pymongo import IndexModel, ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import CollectionInvalid, OperationFailure

from kato_gateway.domain.errors import RegistryUnavailable
from kato_gateway.domain.sessions import HOLDING_STATES, NodeRecord
from kato_gateway.registry.documents import Document, Plain, node_document

VERSION = 1
UNINITIATED_RETRY_S = 2.0

_NAMESPACE_EXISTS = 48

Stored: TypeAlias = dict[str, Any]
Database: TypeAlias = AsyncDatabase[Stored]
Collection: TypeAlias = AsyncCollection[Stored]
Update: TypeAlias = Mapping[str, object] | list[Mapping[str, object]]

SESSIONS = "gateway_sessions"
NODES = "gateway_nodes"
PROCESSORS = "gateway_processors"
LEFTOVERS = "gateway_leftovers"
GATEWAYS = "gateway_gateways"
WRITERS = "gateway_writers"
FACTS = "gateway_facts"

INDEXES: Mapping[str, tuple[IndexModel, ...]] = {
    SESSIONS: (
        IndexModel([("owner", 1), ("_id", 1)], name="by_owner"),
        IndexModel([("user_id", 1), ("_id", 1)], name="by_user"),
        IndexModel([("status", 1), ("_id", 1)], name="by_status"),
        IndexModel([("processor_id", 1), ("status", 1)], name="by_processor"),
        IndexModel([("node_id", 1)], name="by_node"),
        IndexModel([("status", 1), ("expires_at_s", 1)], name="by_expiry"),
        IndexModel([("status", 1), ("created_at_s", 1)], name="by_creation"),
        IndexModel([("ended_at_s", 1)], name="by_end"),
    ),
    NODES: (
        # A node that holds nothing lacks the field, and so is not in the index.
        IndexModel([("holds", 1)], name="one_node_holds_a_processor", unique=True, sparse=True),
        IndexModel([("state", 1)], name="by_state"),
    ),
    PROCESSORS: (IndexModel([("purge_owed", 1)], name="by_purge", sparse=True),),
    LEFTOVERS: (),
    GATEWAYS: (),
    WRITERS: (),
    FACTS: (),
}


async def prepare(database: Database) -> None:
    """Make what is missing of the collections and indexes, before any transaction needs them.

    Raises: RegistryUnavailable, PyMongoError.
    """
    hello = await database.client.admin.command("hello")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        if hello.get("isreplicaset"):
            message = "MongoDB is a replica set that was not initiated yet: run rs.initiate()."
            raise RegistryUnavailable(message, retry_after_s=UNINITIATED_RETRY_S)
        raise RegistryUnavailable("MongoDB is not a replica set; start it as one (one member is enough).")
    known(await put(database[FACTS], {"_id": "/schema"}, {"$max": {"schema": VERSION}}))
    found = set(await database.list_collection_names())
    for name, indexes in INDEXES.items():
        if name not in found:
            await _make(database, name)
        if indexes:
            await database[name].create_indexes(list(indexes))


async def put(
    collection: Collection, one: dict[str, str], update: Update, *, session: AsyncClientSession | None = None
) -> Stored:
    """Update the document of this id, made if it is missing; return it as it is then.

    Of two that make it at once one may come away with nothing, and finds the other's.
    """
    while True:
        stored = await collection.find_one_and_update(
            one, update, upsert=True, return_document=ReturnDocument.AFTER, session=session
        )
        if stored is not None:
            return stored


def versioned(document: Document) -> dict[str, Plain]:
    """Return the document as it is stored."""
    return {**document, "schema": VERSION}


def versioned_node(record: NodeRecord) -> dict[str, Plain]:
    """Return the node as it is stored."""
    document = versioned(node_document(record))
    if record.state in HOLDING_STATES:
        document["holds"] = record.processor_id
    return document


def known(stored: Stored) -> Stored:
    """Return the document as it was stored. Raises: RegistryUnavailable if a newer KATO wrote it."""
    if stored["schema"] > VERSION:
        found = f"version {stored['schema']}, known is {VERSION}"
        raise RegistryUnavailable(f"A newer KATO wrote the registry in MongoDB ({found}); use that one.")
    return stored


async def _make(database: Database, name: str) -> None:
    try:
        await database.create_collection(name)
    except CollectionInvalid:
        pass  # another gateway was quicker
    except OperationFailure as error:
        if error.code != _NAMESPACE_EXISTS:  # the same, later
            raise
