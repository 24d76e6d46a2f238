"""Bringing up a home's fork server: which version of the code it should have, and the program itself."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from container_manager.errors import RuntimeUnavailable
from container_manager.runtimes import forkserver
from container_manager.runtimes.forking import BASICS

PACKAGE = "container_manager"
PROGRAM = "container_manager.runtimes.forkserver"
LAUNCH_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The fork server that a home should have.

    Attributes:
        home: absolute.
        entry: "module:function", what a node runs.
        path: absolute directories to import it from, before the usual ones.
        linger_s: how long it stays with no node and no client.
        log_bytes_max: the size at which a node's log is rotated.
    """

    home: Path
    entry: str
    path: tuple[Path, ...]
    linger_s: float
    log_bytes_max: int


def fingerprint(program: Program) -> str:
    """Return what changes when the code that nodes would run changes: their sources, the packages installed, Python."""
    top = program.entry.partition(":")[0].partition(".")[0]
    found = PathFinder.find_spec(top, [str(each) for each in program.path]) or importlib.util.find_spec(top)
    facts: list[object] = [sys.version, program.entry, [str(each) for each in program.path]]
    sources = {*_sources(found), *_sources(importlib.util.find_spec(PACKAGE)), Path(sysconfig.get_path("purelib"))}
    facts += [(str(source), *_version(source)) for source in sorted(sources)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def launch(program: Program, version: str) -> bool:
    """Start the program and wait until it is ready; False if another one has the home's lock. Blocks.

    Args:
        version: the fingerprint that it shall greet with.

    Raises: RuntimeUnavailable, with what it said.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - our own program
            _arguments(program, version),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=program.home,
            env=_environment(program),
            start_new_session=True,
        )
    except OSError as error:
        raise RuntimeUnavailable(f"cannot start the fork server: {error}") from error
    with process:
        try:
            output, _ = process.communicate(timeout=LAUNCH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # not yet waited for, so the id is still its own
            raise RuntimeUnavailable(f"the fork server was not ready within {LAUNCH_TIMEOUT_S:g} s") from None
    return _is_ready(output.decode(errors="replace").strip())


def _arguments(program: Program, version: str) -> list[str]:
    return [
        *(sys.executable, "-P", "-X", "utf8", "-m", PROGRAM),
        *("--home", str(program.home)),
        *("--entry", program.entry),
        *("--fingerprint", version),
        *("--linger-s", str(program.linger_s)),
        *("--log-bytes-max", str(program.log_bytes_max)),
    ]


def _environment(program: Program) -> dict[str, str]:
    """Return the program's environment: the basics, and where to import from; nothing of the gateway's own."""
    inherited = [Path(each).absolute() for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    root = Path(forkserver.__file__).parents[2]
    installed = str(root) in sysconfig.get_paths().values()
    path = [*program.path, *([] if installed else [root]), *inherited]
    basics = {name: os.environ[name] for name in BASICS if name in os.environ}
    return {**basics, "PYTHONPATH": os.pathsep.join(map(str, path))}


def _is_ready(output: str) -> bool:
    try:
        message = dict(json.loads(output))
    except (ValueError, TypeError):
        message = {"error": output[-1000:] or "it said nothing"}
    if "error" in message:
        raise RuntimeUnavailable(f"the fork server did not start: {message['error']}")
    return "ready" in message


def _sources(spec: ModuleSpec | None) -> Iterator[Path]:
    if spec is None:
        return
    for directory in spec.submodule_search_locations or ():
        yield from Path(directory).rglob("*.py")
    if spec.origin is not None:
        yield Path(spec.origin)


def _version(path: Path) -> tuple[int, int]:
    try:
        facts = path.stat()
    except OSError:
        return (0, 0)
    return (facts.st_size, facts.st_mtime_ns)
