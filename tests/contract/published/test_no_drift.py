"""What is written and what runs are the same: routes, settings, limits, error codes and log events, both ways."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from fastapi import FastAPI
from starlette.routing import Route

from container_manager.errors import ContainerError
from kato_gateway.api.app import create_app as create_gateway
from kato_gateway.dataplane.admit import Forward, Head, admit
from kato_gateway.domain.owners import NO_KEYS
from kato_node.api.app import create_app as create_node
from kato_node.settings import Settings
from kato_node.wire import docs
from kato_node.wire.errors import STATUS
from kato_node.wire.web import single_routes
from tests.architecture.source import modules

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
UNDOCUMENTED = docs.PATHS
# Of the published table, and said to be reserved in docs/meanings.toml: whoever names a processor makes it.
RESERVED = {"PROCESSOR_NOT_FOUND"}
MENTIONED = re.compile(r"\b(GET|POST|PUT|DELETE|PATCH) `?(/[a-z0-9{}_/-]+)")
OPERATION_PLACES = ("/sessions/{session_id}", "/session/{session_id}", "/v2/sessions/{session_id}")


def apps() -> dict[str, FastAPI]:
    """Return both applications; nothing of them runs."""
    return {
        "node": create_node(Mock(), Settings(processor_id="p")),
        "gateway": create_gateway(Mock(), Mock(), runtime=""),
    }


def documented(app: FastAPI) -> set[tuple[str, str]]:
    """Return each (method, path) of an application's OpenAPI document."""
    methods = ("get", "put", "post", "delete", "patch")
    return {
        (method.upper(), path) for path, item in app.openapi()["paths"].items() for method in methods if method in item
    }


def served(app: FastAPI) -> set[tuple[str, str]]:
    """Return each (method, path) that an application routes over HTTP, its documentation left out."""
    routes = [route for route in single_routes(app.routes) if isinstance(route, Route)]
    return {
        (method, route.path)
        for route in routes
        if route.path not in UNDOCUMENTED
        for method in (route.methods or set()) - {"HEAD"}
    }


def is_forwarded(method: str, path: str) -> bool:
    """Whether the gateway forwards a call."""
    head = Head(method=method, path=path.encode(), query=b"", headers=[])
    return isinstance(admit(head, NO_KEYS), Forward)


def test_the_nodes_routes_are_its_document() -> None:
    """Every route of a node is documented, and every documented call has a route."""
    node = apps()["node"]
    assert documented(node) == served(node)


def test_the_gateways_routes_are_its_document() -> None:
    """Every own route of the gateway and everything that it forwards is documented, and nothing else."""
    gateway = apps()["gateway"]
    own = served(gateway)
    assert own <= documented(gateway)
    for method, path in documented(gateway) - own:
        url = path.replace("{session_id}", "default").replace("{", "").replace("}", "")
        assert is_forwarded(method, url), f"{method} {path} is documented and not served"


def test_whatever_is_forwarded_is_documented_at_each_place() -> None:
    """Each call of a node that the gateway forwards is documented under a session at each place, and at the root."""
    gateway = apps()["gateway"]
    known, own = documented(gateway), served(gateway)
    for method, path in documented(apps()["node"]):
        for place in ("", *OPERATION_PLACES):
            url = f"{place}{path}".replace("{session_id}", "default").replace("{", "").replace("}", "")
            if is_forwarded(method, url):
                assert (method, place + path) in known, f"{method} {place}{path}"
            elif not path.startswith(("/sessions", "/v2/sessions")):
                assert (method, place + path) in own, f"{method} {place}{path} is neither forwarded nor the gateway's"


def test_the_generated_parts_of_the_pages_are_current() -> None:
    """`make docs` would change nothing: each route, setting, limit, code and log event stands there, and no other."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_call_that_a_page_mentions_exists(page: Path) -> None:
    """A call that is named on a page, method and path, is one of a service."""
    known = {call for app in apps().values() for call in documented(app)}
    comparable = {(method, re.sub(r"{\w+}", "{}", path)) for method, path in known}
    for method, path in MENTIONED.findall(page.read_text()):
        assert (method, re.sub(r"{\w+}", "{}", path.rstrip("/"))) in comparable, f"{method} {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    """Each relative link is a file, and its anchor a heading of it."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]+))?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_code_is_in_the_table_and_is_used() -> None:
    """An error that a client sees has a code of the table, and each code of the table is one that something raises."""
    constants = [
        (module.name, node.value)
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    used = [value for _, value in constants]
    assert {code for code in STATUS if used.count(code) < 2} == RESERVED
    inside = {error.code for error in _family(ContainerError)} | {"DOMAIN_ERROR"}
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                for code in _codes(node):
                    assert code in STATUS or code in inside or module.name.startswith("container_manager"), code


def _family(error: type[ContainerError]) -> set[type[ContainerError]]:
    return {error}.union(*(_family(kind) for kind in error.__subclasses__()))


def _codes(node: ast.ClassDef) -> list[str]:
    """Return the value of a class's attribute `code`."""
    return [
        str(part.value.value)
        for part in node.body
        if isinstance(part, ast.Assign | ast.AnnAssign)
        and isinstance(part.value, ast.Constant)
        and "code" in [target.id for target in _targets(part) if isinstance(target, ast.Name)]
    ]


def _targets(part: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return part.targets if isinstance(part, ast.Assign) else [part.target]
