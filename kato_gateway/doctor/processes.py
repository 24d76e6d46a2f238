"""Who runs: the gateway, who has its port, and nodes that are processes of this machine."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from container_manager.runtimes import lockfiles
from container_manager.runtimes.lockfiles import LockRecord, Trace
from kato_gateway.doctor import kernel
from kato_gateway.doctor.files import Recorded
from kato_gateway.doctor.findings import Finding, fail, ok, warn

_SWEPT = "the gateway looks after it within two minutes; should it stay, end it: "


def gateway_pid(home: Path) -> int | None:
    """Return the gateway that holds the folder, None if none does."""
    return kernel.lock_holder(home / "gateway.lock")


def look_at_gateway(pid: int | None) -> Finding:
    """Say whether a gateway runs; both are well."""
    return ok("gateway", "none runs on this folder" if pid is None else f"runs: {kernel.called(pid)}")


def look_at_port(host: str, port: int, gateway: int | None) -> Finding:
    """Say who has the port on which the gateway is to listen."""
    if port == 0:
        return ok("port", "one of the system's choice")
    holder = kernel.listener(port)
    if gateway is not None and holder == gateway:
        return ok("port", f"{port} is the gateway's")
    reason = _refusal(host, port)
    if reason is None:
        return ok("port", f"{port} is free on {host}")
    whose = "a process that is not ours to see" if not holder else kernel.called(holder)
    if gateway is not None:
        return warn("port", f"{port} is held by {whose}; the gateway listens elsewhere", "the settings of both differ")
    shown = f"{port} on {host} cannot be taken: {reason}" + ("" if holder is None else f", held by {whose}")
    return fail("port", shown, "stop that process, or set GATEWAY_PORT (or GATEWAY_HOST)")


def look_at_nodes(home: Path, recorded: Recorded | None, gateway: int | None) -> Iterator[Finding]:
    """Yield a line for each node, process or lock file that nobody looks after, and one for all others."""
    run = lockfiles.run_dir(home)
    try:
        traces = lockfiles.look_at_all(run) if run.is_dir() else []
    except OSError as error:
        yield fail("nodes", f"{run} cannot be read: {error.strerror}", "see to its owner and permissions")
        return
    well = 0
    for trace in traces:
        finding = _judged(run, trace, recorded, gateway)
        if finding is None:
            well += 1
        else:
            yield finding
    for pid in _without_lock_file(home, run):
        message = f"{kernel.called(pid)} belongs to {home} and has no lock file: no gateway will ever find it"
        yield fail("nodes", message, f"kill {pid}")
    yield ok("nodes", f"{well} run that are looked after")


def _judged(run: Path, trace: Trace, recorded: Recorded | None, gateway: int | None) -> Finding | None:
    """Return what is wrong with a node, None if nothing is."""
    path = run / f"{trace.node_id}.json"
    if trace.life == "dead":
        advice = "the gateway removes it at its next start or look; nothing to do"
        return warn("nodes", f"{path} is of a node that has ended", advice)
    if trace.life == "unknown" or trace.record is None:
        message = f"{path} cannot be read: whether node {trace.node_id} runs cannot be told"
        return fail("nodes", message, f"see who has it open (fuser {path}); if nobody, delete it")
    if trace.record.role != "node" or recorded is None:
        return None  # a static node is its owner's, and without a registry nothing can be said
    return _running(trace.record, recorded, gateway)


def _running(node: LockRecord, recorded: Recorded, gateway: int | None) -> Finding | None:
    called, kill = f"node {node.node_id} (pid {node.pid})", f"kill {node.pid}"
    if recorded.deployment not in {None, node.deployment}:
        message = f"{called} is of another installation, {node.deployment}"
        return warn("nodes", message, f"if that installation is gone, end it: {kill}")
    if node.node_id not in recorded.nodes:
        message = f"{called} runs, and the registry does not know it"
        return fail("nodes", message, kill) if gateway is None else warn("nodes", message, _SWEPT + kill)
    if gateway is None:
        return warn("nodes", f"{called} runs without a gateway", "the next gateway adopts it; unused it ends by itself")
    return None


def _without_lock_file(home: Path, run: Path) -> Iterator[int]:
    """Yield the processes that the home's fork server has made and whose lock file was deleted."""
    named = {"--home", str(home)}
    for pid in kernel.pids():
        if named <= set(kernel.arguments(pid)) and kernel.has_deleted(pid, run):
            yield pid


def _refusal(host: str, port: int) -> str | None:
    """Return why the address cannot be taken, None if it can; it is not kept."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return os.strerror(error.errno or 0)
    return None
