"""The writer of /metrics that both services share."""

from __future__ import annotations

import pytest

from kato_node.wire.metrics import Metric, exposition, wants_text


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/plain", True),
        ("TEXT/PLAIN;version=0.0.4", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.4,*/*;q=0.1", True),
        ("text/plain;q=0.5, application/json;q=0.5", False),
        ("text/plain;q=0.5, application/json;q=0.4", True),
        ("text/plain;q=0.5, */*", False),
        ("text/*", True),
        ("text/plain;q=0", False),
        ("text/plain;q=nonsense", False),
    ],
)
def test_text_is_sent_to_those_who_prefer_it(accept: str | None, text: bool) -> None:
    """Prometheus text is chosen exactly where it has a higher q than JSON, for which `*/*` stands, too."""
    assert wants_text(accept) is text


def test_metrics_are_written_as_prometheus_reads_them() -> None:
    """Each metric has its help, its type and a line for each set of labels, whose values are escaped."""
    metric = Metric(name="a_total", kind="counter", help="What it is.", samples=[({}, 3.0), ({"b": 'c"\\\n'}, 0.5)])
    assert exposition([metric]) == (
        '# HELP a_total What it is.\n# TYPE a_total counter\na_total 3\na_total{b="c\\"\\\\\\n"} 0.5\n'
    )
