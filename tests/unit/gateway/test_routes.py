"""The route table."""

from __future__ import annotations

from dataclasses import replace

from container_manager.spec import Address
from kato_gateway.dataplane.routes import Route, RouteTable

A = Route(
    session_id="a",
    incarnation="1",
    processor_id="p",
    epoch=1,
    node_id="n1",
    address=Address(host="127.0.0.1", port=20_000),
)
B = replace(A, session_id="b")


def test_a_route_is_found_by_its_session() -> None:
    """A session has the route that was put last."""
    table = RouteTable()
    assert table.get("a") is None
    table.put(A)
    newer = replace(A, epoch=2, node_id="n2")
    table.put(newer)
    assert table.get("a") == newer
    assert (table.sessions_on("n1"), table.sessions_on("n2"), len(table)) == ((), ("a",), 1)


def test_a_node_takes_its_routes_with_it() -> None:
    """Dropping a node drops the routes to it and no others."""
    table = RouteTable()
    other = replace(A, session_id="c", node_id="n2")
    for route in (A, B, other):
        table.put(route)
    assert sorted(table.drop_node("n1")) == ["a", "b"]
    assert (table.get("a"), table.get("b"), table.get("c")) == (None, None, other)
    assert table.drop_node("n1") == ()


def test_a_session_can_be_dropped_alone() -> None:
    """Dropping a session leaves its neighbours; dropping it twice is no error."""
    table = RouteTable()
    table.put(A)
    table.put(B)
    table.drop_session("a")
    table.drop_session("a")
    assert table.get("b") == B
    assert table.sessions_on("n1") == ("b",)
    table.drop_session("b")
    assert len(table) == 0
