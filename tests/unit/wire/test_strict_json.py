"""JSON as the interfaces mean it."""

from __future__ import annotations

import pytest

from kato_node.wire.errors import InvalidRequest
from kato_node.wire.strict_json import loads


@pytest.mark.parametrize(
    "text",
    ["1e309", "-1E+400", "1" + "0" * 298 + "e11", "1" + "0" * 310 + ".0", "1" + "0" * 210 + "e99", "1e0000000999"],
)
def test_a_number_that_overflows_is_refused(text: str) -> None:
    """However it is spelled, a number that no float can hold is an error of its field."""
    with pytest.raises(InvalidRequest) as refused:
        loads(b'{"x": %s}' % text.encode())
    assert refused.value.details == {"errors": [{"field": "x", "message": "must be a finite number"}]}


@pytest.mark.parametrize("text", ["1e308", "1" + "0" * 298 + "e9", "1" + "0" * 400, "1e-400"])
def test_a_number_that_fits_is_read(text: str) -> None:
    """Whatever has a value is read, integers of many digits included."""
    assert loads(b'{"x": %s}' % text.encode()) is not None
