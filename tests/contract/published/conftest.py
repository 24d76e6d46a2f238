"""A running node and a running gateway for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.published.services import SERVICES, Service, running_gateway, running_node


@pytest.fixture(scope="module", params=SERVICES)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Each of the two services in turn."""
    with SERVICES[request.param](tmp_path_factory.mktemp(request.param) / "home") as running:
        yield running


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A static node."""
    with running_node(tmp_path_factory.mktemp("node") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A gateway."""
    with running_gateway(tmp_path_factory.mktemp("gateway") / "home") as running:
        yield running
