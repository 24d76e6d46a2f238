"""Writes the parts of the pages in docs/ that the code decides: `make docs`; with `--check` it only compares.

A part stands between `<!-- NAME -->` and `<!-- end -->`. What the code cannot say, what a thing means, is in
meanings.toml: one text for each setting, limit, error code and log event; one too many or too few is an error.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args
from unittest.mock import Mock

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from kato_gateway import settings as gateway_settings  # noqa: E402
from kato_gateway.api.app import BODY_BYTES_MAX, create_app  # noqa: E402
from kato_gateway.api.openapi import forwarded  # noqa: E402
from kato_gateway.dataplane.attempts import Limits as DataPlaneLimits  # noqa: E402
from kato_gateway.domain.policy import LifecyclePolicy  # noqa: E402
from kato_gateway.events import Kind  # noqa: E402
from kato_gateway.sessions.creating import SESSION_BYTES_MAX, TTL_S_MAX  # noqa: E402
from kato_node import sessions, turns  # noqa: E402
from kato_node import settings as node_settings  # noqa: E402
from kato_node.api.app import HELD_BYTES_MAX  # noqa: E402
from kato_node.api.app import create_app as create_node_app  # noqa: E402
from kato_node.domain import config  # noqa: E402
from kato_node.domain.limits import LIMITS  # noqa: E402
from kato_node.wire.errors import STATUS  # noqa: E402
from kato_node.wire.logs import LEVELS, LIBRARY  # noqa: E402
from kato_node.wire.operations import MESSAGES  # noqa: E402

Schema = Mapping[str, Any]
PAGES = ("api.md", "operations.md")
PACKAGES = ("kato_node", "kato_gateway", "container_manager")
METHODS = ("get", "put", "post", "delete", "patch")
_PART = re.compile(r"(<!-- ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SETTING = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
_UNDER_SESSION = re.compile(r"^(/v2)?/sessions/{session_id}(?=/)")
_LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


class Incomplete(Exception):
    """A text is missing in meanings.toml, or means nothing that there is."""


def meanings(kind: str, names: Iterable[str]) -> dict[str, str]:
    """Return the text of each name, in the order of the names. Raises: Incomplete."""
    known: dict[str, str] = tomllib.loads((DOCS / "meanings.toml").read_text())[kind]
    wanted = list(names)
    missing, surplus = sorted(set(wanted) - set(known)), sorted(set(known) - set(wanted))
    if missing or surplus:
        raise Incomplete(f"docs/meanings.toml [{kind}]: missing {missing}, surplus {surplus}")
    return {name: known[name] for name in wanted}


# --- what the code has ------------------------------------------------------------------------------------------------


def node_document() -> Schema:
    """Return the node's OpenAPI document; a schema whose name means another one at the gateway is called Node….

    Nothing of the node is called to make it.
    """
    text = json.dumps(create_node_app(Mock(), node_settings.Settings(processor_id="p")).openapi())
    own, others = json.loads(text)["components"]["schemas"], gateway_document()["components"]["schemas"]
    for name in (name for name in own.keys() & others.keys() if own[name] != others[name]):
        text = text.replace(f'"#/components/schemas/{name}"', f'"#/components/schemas/Node{name}"')
        text = text.replace(f'"{name}": {{"', f'"Node{name}": {{"')
    renamed: Schema = json.loads(text)
    return renamed


def gateway_document() -> Schema:
    """Return the gateway's OpenAPI document; nothing of the gateway is called to make it."""
    return create_app(Mock(), Mock(), runtime="").openapi()


def settings_of(module: object) -> list[str]:
    """Return the names of the environment that a settings module reads, the processor's configuration left out."""
    tree = ast.parse(Path(str(module.__file__)).read_text())  # type: ignore[attr-defined]
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {text for text in texts if len(text) > 3 and _SETTING.fullmatch(text)} - set(LEVELS)
    return sorted(names - {field.name.upper() for field in fields(config.Config)})


def limits() -> dict[str, int | float]:
    """Return each limit by its name."""
    node, plane = node_settings.Settings(processor_id="p"), DataPlaneLimits()
    return {
        "body_bytes_max": BODY_BYTES_MAX,
        **{field.name: getattr(LIMITS, field.name) for field in fields(LIMITS)},
        "sessions_max": sessions.SESSIONS_MAX,
        "nodes_max": LifecyclePolicy().nodes_max,
        **{field.name: getattr(node, field.name) for field in fields(node) if field.name.endswith(("_max", "_max_s"))},
        "held_bytes_max": HELD_BYTES_MAX,
        "unanswered_max": sessions.UNANSWERED_MAX,
        "node_unanswered_max": sessions.NODE_UNANSWERED_MAX,
        "remembered_operations_max": turns.OPERATIONS_MAX,
        "checkpoints_max": sessions.CHECKPOINTS_MAX,
        "kept_bytes_max": plane.kept_bytes_max,
        "answer_s": plane.answer_s,
        "ttl_s_max": TTL_S_MAX,
        "session_bytes_max": SESSION_BYTES_MAX,
    }


def log_events() -> dict[str, set[str]]:
    """Return each event that a log line may have, with the packages that log it."""
    found: dict[str, set[str]] = {kind: {"kato_gateway"} for kind in get_args(Kind)}
    found[LIBRARY] = {"kato_gateway", "kato_node"}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for name in _logged(ast.parse(path.read_text())):
                found.setdefault(name, set()).add(package)
    return dict(sorted(found.items()))


def _logged(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _LEVELS):
            continue
        owner = node.func.value
        name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
        if name in {"_log", "log", "logger"}:
            texts = (text.value for text in node.args[:2] if isinstance(text, ast.Constant))
            yield from (text for text in texts if isinstance(text, str))


# --- how it is shown --------------------------------------------------------------------------------------------------


def table(head: str, rows: Iterable[Iterable[object]]) -> str:
    """Return a table in Markdown; a pipe in a cell is escaped."""
    names = head.split(" | ")
    lines = [" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in [head, " | ".join(["---"] * len(names)), *lines])


def operations_table() -> str:
    """Return what a node answers: the operations of one processor, and its sessions."""
    known: Mapping[str, Schema] = node_document()["paths"]
    again = {path for path in known if _UNDER_SESSION.match(path) and _UNDER_SESSION.sub("", path) in known}
    paths = {path: item for path, item in known.items() if path not in again}
    aliases: dict[tuple[str, str], list[str]] = {}
    rows: dict[tuple[str, str], tuple[list[str], Schema]] = {}
    for path, item in paths.items():
        for method in (method for method in METHODS if method in item):
            described = item[method]
            if said := re.match(r"The same as (/\S+)\.", described.get("description", "")):
                aliases.setdefault((said[1], described["summary"]), []).append(path)
            else:
                rows.setdefault((path, described["summary"]), ([], described))[0].append(method.upper())
    shown = (
        (
            ", ".join(methods),
            ", ".join(f"`{one}`" for one in dict.fromkeys([path, *aliases.get((path, summary), ())])),
            summary,
            *_traffic(described),
        )
        for (path, summary), (methods, described) in rows.items()
    )
    return table("method | path, aliases | what it does | parameters | body | reply", shown)


def gateway_table() -> str:
    """Return the gateway's own routes, those for existing clients after the others."""
    elsewhere = forwarded()
    rows = []
    for path, item in gateway_document()["paths"].items():
        if path not in elsewhere:
            for method in (method for method in METHODS if method in item):
                described = item[method]
                kept = " (for existing clients)" if described.get("deprecated") else ""
                rows.append((method.upper(), f"`{path}`", described["summary"] + kept, *_traffic(described)))
    return table("method | path | what it does | parameters | body | reply", rows)


def messages_table() -> str:
    """Return the messages of the WebSocket."""
    rows = [(f"`{kind}`", f"`{said.reply}`", said.operation.summary) for kind, said in MESSAGES.items()]
    rows.append(("`ping`", "`pong`", "Whether the other side is there"))
    rows.append(("`subscribe`", "`event`", "Be told of each pattern that the session learns"))
    return table("type | reply's type | what it does", rows)


def bodies() -> str:
    """Return every body and reply, field by field."""
    found: dict[str, Schema] = {
        **node_document()["components"]["schemas"],
        **gateway_document()["components"]["schemas"],
    }
    return "\n\n".join(f"#### {name}\n\n{_fields(schema)}" for name, schema in sorted(found.items()))


def errors_table() -> str:
    """Return the error codes."""
    texts = meanings("errors", STATUS)
    return table("status | code | when, and what to do", ((STATUS[code], f"`{code}`", texts[code]) for code in STATUS))


def limits_table() -> str:
    """Return the limits."""
    known = limits()
    texts = meanings("limits", known)
    return table("limit | value | beyond it", ((f"`{name}`", f"{known[name]:,.0f}", texts[name]) for name in known))


def settings_table(kind: str, module: object, defaults: object) -> str:
    """Return the settings of one service; a text may name the attribute that holds the default, as `[name]`."""
    rows = []
    for name, text in meanings(kind, settings_of(module)).items():
        attribute = re.match(r"\[(\w+)\] ", text)
        value = getattr(defaults, attribute[1]) if attribute else None
        default = "" if value is None else _default(value)
        rows.append((f"`{name}`", default, text[attribute.end() :] if attribute else text))
    return table("setting | default | meaning", rows)


def configuration_table() -> str:
    """Return the configuration of a processor, as settings and as genes."""
    texts = meanings("configuration", (field.name for field in fields(config.Config)))
    default = config.DEFAULT.as_dict()
    rows = ((f"`{name}`", f"`{name.upper()}`", _default(default[name]), text) for name, text in texts.items())
    return table("name | environment | default | meaning", rows)


def events_table() -> str:
    """Return the log events."""
    found = log_events()
    texts = meanings("events", found)
    return table(
        "event | from | meaning", ((f"`{name}`", ", ".join(sorted(found[name])), texts[name]) for name in found)
    )


def _traffic(described: Schema) -> tuple[str, str, str]:
    parameters = [one["name"] for one in described.get("parameters", ()) if one["in"] == "query"]
    body = described.get("requestBody", {}).get("content", {})
    done = next(said for status, said in described["responses"].items() if status.startswith("2"))
    return ", ".join(f"`{name}`" for name in parameters), _content(body), _content(done.get("content", {}))


def _content(content: Schema) -> str:
    return ", ".join(_type(said["schema"]) if kind == "application/json" else kind for kind, said in content.items())


def _fields(schema: Schema) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (
            f"`{name}`",
            _type(field),
            "" if name in required else _published_default(field),
            field.get("description", ""),
        )
        for name, field in schema.get("properties", {}).items()
    ]
    text = schema.get("description", "")
    return f"{text}\n\n{table('field | type | default | meaning', rows)}" if rows else text


def _published_default(field: Schema) -> str:
    """Return the default of a field that may be left out; FastAPI leaves a null out, and some fields have none."""
    nullable = {"type": "null"} in field.get("anyOf", ())
    return _default(field.get("default")) if nullable or "default" in field else ""


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(part) for part in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = str(schema.get("type", "any JSON"))
    inner = schema.get("items", schema.get("additionalProperties"))
    return f"{kind} of {_type(inner)}" if isinstance(inner, dict) and inner else kind


def _default(value: object) -> str:
    home = str(Path.home())
    if value is None or value == "":
        return "null" if value is None else ""
    shown = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    return f"`{str(shown).replace(home, '~')}`"


PARTS: Mapping[str, Callable[[], str]] = {
    "operations": operations_table,
    "messages": messages_table,
    "gateway": gateway_table,
    "bodies": bodies,
    "errors": errors_table,
    "limits": limits_table,
    "node-settings": lambda: settings_table(
        "node_settings", node_settings, node_settings.from_environment({"PROCESSOR_ID": "p"})
    ),
    "gateway-settings": lambda: settings_table(
        "gateway_settings", gateway_settings, gateway_settings.from_environment({})
    ),
    "configuration": configuration_table,
    "events": events_table,
}


def renewed(text: str) -> str:
    """Return a page with each of its generated parts as it must be now."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check say which are not current; return the exit status."""
    stale = []
    for page in PAGES:
        path = DOCS / page
        before = path.read_text()
        try:
            after = renewed(before)
        except Incomplete as error:
            print(error, file=sys.stderr)
            return 1
        if after != before:
            stale.append(page)
            if arguments != ["--check"]:
                path.write_text(after)
    print(f"{', '.join(stale) or 'no page'} {'not current: make docs' if arguments == ['--check'] else 'written'}")
    return 1 if stale and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
