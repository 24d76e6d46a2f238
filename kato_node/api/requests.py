"""What a request says beside its body."""

from __future__ import annotations

from starlette.requests import Request

from kato_node.node import Node
from kato_node.wire import headers
from kato_node.wire.errors import InvalidRequest


def session_named(request: Request, node: Node) -> str | None:
    """Return the session that a request names, in its path or in its header.

    Raises: InvalidRequest if they differ; SessionNotFound if there is none of the path's name, whatever is asked of it.
    """
    in_header: str | None = request.headers.get(headers.SESSION)
    in_path: str | None = request.path_params.get("session_id")
    if in_path is None:
        return in_header
    if in_header not in {None, in_path}:
        raise InvalidRequest([("session_id", f"is not the session that {headers.SESSION} names")])
    return node.transfer.meant(in_path)


async def met(request: Request, node: Node) -> None:
    """See that the session is the very one that the gateway means (headers.INCARNATION); others mean whichever it is.

    Raises: SessionNotFound, WrongIncarnation.
    """
    incarnation = request.headers.get(headers.INCARNATION)
    if incarnation is not None:
        await node.reads.meet(session_named(request, node), incarnation)
