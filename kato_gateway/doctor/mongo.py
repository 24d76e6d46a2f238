"""MongoDB, where it keeps everything: whether it answers, can be written, and is what a gateway needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from kato_gateway.doctor.clocks import compared
from kato_gateway.doctor.files import Recorded
from kato_gateway.doctor.findings import Finding, fail, ok
from kato_gateway.registry import mongo_schema as schema

TIMEOUT_MS = 3_000
_ADVICE = "start it, or see to MONGO_URL: host and port, replicaSet"
_LOGIN_ADVICE = "see to MONGO_URL: name, password, authSource; and to the user's right to readWrite on MONGO_DATABASE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What MongoDB says."""

    hello: Mapping[str, object]
    version: str
    schema: int
    recorded: Recorded


def look_at_mongo(url: str, database: str) -> tuple[list[Finding], Recorded | None]:
    """Say whether MongoDB can serve the installation; return what its registry says, None if it cannot be told."""
    try:
        answer = _answer(url, database)
    except OperationFailure as error:
        return [fail("mongodb", f"answers, and refuses us: {_named(error)}", _LOGIN_ADVICE)], None
    except (PyMongoError, ValueError) as error:  # its words may name who logs in: the kind of error has to do
        return [fail("mongodb", f"does not answer: {type(error).__name__}", _ADVICE)], None
    return list(_judged(answer)), answer.recorded


def _named(error: OperationFailure) -> str:
    """Return the server's name for the error: its words may name who logs in."""
    name = (error.details or {}).get("codeName")
    return name if isinstance(name, str) else f"code {error.code}"


def _judged(answer: Answer) -> Iterator[Finding]:
    name = f"MongoDB {answer.version}"
    if "setName" not in answer.hello and answer.hello.get("msg") != "isdbgrid":
        yield fail(
            "mongodb", f"{name} is no replica set", "start it as one (one member is enough): mongod --replSet rs0"
        )
    elif not answer.hello.get("isWritablePrimary"):
        yield fail("mongodb", f"{name} answers and cannot be written: there is no primary", "rs.status() says why")
    elif answer.schema > schema.VERSION:
        message = f"{name} has schema {answer.schema}; this KATO knows {schema.VERSION}"
        yield fail("mongodb", message, "install the version of KATO that has used it")
    else:
        yield ok("mongodb", f"{name}, replica set, writable, {len(answer.recorded.nodes)} nodes on record")
    local_time = answer.hello.get("localTime")
    if isinstance(local_time, datetime):
        yield compared("MongoDB", local_time.timestamp())


def _answer(url: str, database: str) -> Answer:
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
        url, serverSelectionTimeoutMS=TIMEOUT_MS, timeoutMS=TIMEOUT_MS, tz_aware=True
    )
    with client:
        hello = client.admin.command("hello")
        found = client[database]
        facts = {str(fact["_id"]): fact for fact in found[schema.FACTS].find()}
        nodes = list(found[schema.NODES].find())
        return Answer(
            hello=hello,
            version=str(client.server_info()["version"]),
            schema=cast("int", facts.get("/schema", {}).get("schema", 0)),
            recorded=Recorded(
                deployment=facts.get("deployment", {}).get("value"),
                nodes={str(node["_id"]): str(node["state"]) for node in nodes},
                secret_digest=facts.get("secret", {}).get("value"),
                newest_s=max((float(node["changed_at_s"]) for node in nodes), default=0.0),
            ),
        )
