"""The import table of the architecture: who may import whom."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from tests.architecture.source import Module, imports, modules

MANAGER_PUBLIC = (
    "container_manager.spec",
    "container_manager.errors",
    "container_manager.runtime",
    "container_manager.labels",
    "container_manager",
)


SERVICE_ROOMS = {
    "kato_node": ("kato_node",),
    "kato_gateway": ("kato_gateway", "kato_gateway.nodes", "kato_gateway.sessions"),
}


def services(package: str) -> tuple[str, ...]:
    """Return a package's services: the modules of its service rooms, all but the settings and the program."""
    apart = (f"{package}.settings", f"{package}.__main__", f"{package}.wiring", f"{package}.backup")
    inside = (module.name for module in modules() if not module.is_package)
    return tuple(name for name in inside if name.rpartition(".")[0] in SERVICE_ROOMS[package] and name not in apart)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What the modules under `prefix` may import besides the standard library and themselves; the longest prefix rules.

    `own` is how far "themselves" reaches: modules that share this prefix.
    """

    prefix: str
    own: str
    may: tuple[str, ...] = ()
    not_stdlib: tuple[str, ...] = ()


PURE = ("asyncio", "logging", "time", "random", "uuid", "threading", "socket", "os")

RULES = (
    Rule(prefix="kato_node", own="kato_node", may=()),
    Rule(prefix="kato_node.domain", own="kato_node.domain", not_stdlib=PURE),
    Rule(prefix="kato_node.wire", own="kato_node.wire", may=("pydantic",)),
    Rule(
        prefix="kato_node.store", own="kato_node.store", may=("kato_node.domain", "kato_node.thread", "pymongo", "bson")
    ),
    Rule(prefix="kato_node.api", own="kato_node.api", may=("fastapi", "starlette", "pydantic", "kato_node")),
    Rule(prefix="kato_node.settings", own="kato_node.settings", may=("kato_node.domain", "kato_node.wire")),
    Rule(prefix="kato_node.__main__", own="kato_node", may=("uvloop", "kato_node", "fastapi")),
    Rule(prefix="kato_node.with_mongo", own="kato_node"),
    Rule(prefix="kato_gateway", own="kato_gateway", may=()),
    Rule(prefix="kato_gateway.domain", own="kato_gateway.domain", may=("container_manager.spec",), not_stdlib=PURE),
    Rule(
        prefix="kato_gateway.registry",
        own="kato_gateway.registry",
        may=("kato_gateway.domain", "container_manager.spec", "pymongo", "bson"),
    ),
    Rule(
        prefix="kato_gateway.dataplane",
        own="kato_gateway.dataplane",
        may=(
            "kato_gateway.domain",
            "kato_node.wire",
            "container_manager.spec",
            "aiohttp",
            "multidict",
            "yarl",
            "starlette",
        ),
    ),
    Rule(
        prefix="kato_gateway.api",
        own="kato_gateway.api",
        may=("fastapi", "starlette", "pydantic", "kato_gateway", "kato_node.wire", *MANAGER_PUBLIC),
    ),
    Rule(prefix="kato_gateway.settings", own="kato_gateway.settings", may=("kato_gateway.domain", "kato_node.wire")),
    Rule(
        prefix="kato_gateway.__main__",
        own="kato_gateway",
        may=("uvloop", "fastapi", "kato_gateway", "container_manager", "kato_node.wire"),
    ),
    Rule(
        prefix="kato_gateway.wiring",
        own="kato_gateway",
        may=("fastapi", "kato_gateway", "container_manager", "kato_node.wire"),
    ),
    # Tools: like the program, they choose; unlike it, they look at what a gateway or its nodes may be using just now.
    Rule(prefix="kato_gateway.backup", own="kato_gateway", may=("kato_gateway",)),
    Rule(prefix="kato_gateway.doctor", own="kato_gateway", may=("kato_gateway", "container_manager", "pymongo")),
    Rule(prefix="container_manager", own="container_manager", may=()),
    Rule(
        prefix="container_manager.runtimes",
        own="container_manager.runtimes",
        may=(
            "container_manager.spec",
            "container_manager.errors",
            "container_manager.runtime",
            "container_manager.labels",
            "container_manager.readiness",
            "docker",
            "requests",
            "urllib3",
        ),
    ),
    *(
        Rule(prefix=name, own=name, may=("kato_node.domain", "kato_node.store.base", *services("kato_node")))
        for name in services("kato_node")
    ),
    *(
        Rule(
            prefix=name,
            own=name,
            may=(
                "kato_gateway.domain",
                "kato_gateway.registry.base",
                "kato_gateway.dataplane.routes",
                "kato_node.wire",
                *MANAGER_PUBLIC,
                *services("kato_gateway"),
            ),
        )
        for name in services("kato_gateway")
    ),
)

WEB = (
    "fastapi",
    "fastapi.dependencies.models",
    "fastapi.exceptions",
    "fastapi.openapi.docs",
    "fastapi.routing",
    "starlette.datastructures",
    "starlette.exceptions",
    "starlette.requests",
    "starlette.responses",
    "starlette.routing",
    "starlette.types",
)

SERVER = (
    "starlette.types",
    "uvicorn",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
    "websockets.http11",
)

# module -> {import: reason}
EXCEPTIONS: dict[str, dict[str, str]] = {
    "kato_node.wire.server": {
        **dict.fromkeys(SERVER, "one server, with one way to end and to find out who is gone, for both services"),
    },
    "kato_node.wire.web": {
        **dict.fromkeys(WEB, "one envelope, one request id and one strict JSON for both services"),
    },
    "kato_gateway.nodes.client": {
        "aiohttp": "the control calls share the data plane's transport library",
        "pydantic": "reads the nodes' replies by the published messages",
    },
    "kato_gateway.__main__": {
        "kato_node.settings": "says what is wrong with the defaults of nodes as with its own settings",
    },
    "kato_gateway.wiring": {
        "kato_node.settings": "checks the defaults that it hands to nodes by the nodes' own rules, before any starts",
        "pymongo.errors": "explains a MONGO_URL that the driver refuses; imported only when there is one",
        "pymongo.uri_parser": "reads a MONGO_URL before anything is started; imported only when there is one",
    },
}


def rule_for(name: str) -> Rule:
    """Return the most specific rule for a module."""
    fitting = (rule for rule in RULES if name == rule.prefix or name.startswith(rule.prefix + "."))
    return max(fitting, key=lambda rule: len(rule.prefix))


def forbidden(module: Module) -> list[str]:
    """Return what the module imports against its rule and without an exception."""
    rule = rule_for(module.name)
    excepted = EXCEPTIONS.get(module.name, {})
    return sorted(name for name in imports(module) if name not in excepted and not _allowed(name, rule))


def _allowed(name: str, rule: Rule) -> bool:
    if name == "kato_node":  # its version, which is the platform's
        return True
    if name.split(".", maxsplit=1)[0] in sys.stdlib_module_names:
        return not _within(name, rule.not_stdlib)
    return _within(name, (rule.own, *rule.may))


def _within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.name)
def test_a_module_imports_only_what_its_room_may(module: Module) -> None:
    """Each module imports only what the table of the architecture allows its layer."""
    assert forbidden(module) == []


def test_the_program_alone_chooses_the_parts() -> None:
    """What knows every concrete part of the gateway is imported by its program, and by nothing else."""
    importers = {module.name for module in modules() if "kato_gateway.wiring" in imports(module)}
    assert importers == {"kato_gateway.__main__"}


def test_exceptions_are_used() -> None:
    """No exception to the table outlives the import that needed it."""
    by_name = {module.name: imports(module) for module in modules()}
    stale = [(name, item) for name, items in EXCEPTIONS.items() for item in items if item not in by_name.get(name, ())]
    assert stale == []
