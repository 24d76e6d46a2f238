"""What records become in a registry, and what older documents are read as."""

from __future__ import annotations

from kato_gateway.domain.sessions import NodeRecord
from kato_gateway.registry.documents import node_document, node_record

NODE = NodeRecord(node_id="n1", spec_hash="h", created_at_s=1.0, changed_at_s=1.0, engine="memory:1")


def test_a_node_keeps_its_engine() -> None:
    """A node on record is of the engine that it was started on."""
    assert node_record(node_document(NODE)) == NODE


def test_an_older_node_is_of_no_known_engine() -> None:
    """A document without an engine, as an older KATO wrote it, reads as one of the engine ""."""
    document = node_document(NODE)
    del document["engine"]
    assert node_record(document).engine == ""
