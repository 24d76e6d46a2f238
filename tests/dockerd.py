"""A Docker engine of a test's own beside the machine's, which it may stop, kill and start again. Needs root."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.engine import IMAGE, LABEL, docker, eventually

_END_MAX_S = 60.0


class OwnEngine:
    """A dockerd and a containerd with folders, sockets and a bridge of their own.

    The machine's iptables are left alone: a published port of loopback is served by docker-proxy without rules, and a
    container reaches this machine at the bridge's address.

    Args:
        directory: short: sockets are made under it.
        bridge: an interface that is there; dockerd would remove the machine's docker0 if it were told to have none, and
            at a restart, too, if it were told which addresses to use.
    """

    def __init__(self, directory: Path, bridge: str) -> None:
        self._directory = directory
        self._bridge = bridge
        self._containerd = self._begun("containerd", "--config", str(self._containerd_config()))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What DOCKER_HOST is to be."""
        return f"unix://{self._directory}/docker.sock"

    def start(self, *, live_restore: bool) -> None:
        """Start it, again on the same folders, and wait until it answers."""
        folders = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
        options = [f"--{option}={self._directory / name}" for option, name in folders.items()]
        options += ["--iptables=false", "--ip6tables=false", f"--bridge={self._bridge}"]
        options += ["--live-restore"] if live_restore else []
        self._process = self._begun("dockerd", "--host", self.url, "--containerd", self._containerd_address, *options)
        eventually(self._answers, "an engine of the test's own")

    def stop(self) -> None:
        """Have it end in order, as when its service is restarted."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without warning; the containers do not notice."""
        self._end(signal.SIGKILL)

    def docker(self, *arguments: str) -> str:
        """Return what `docker …` prints there. Raises: RuntimeError, with its words."""
        return docker("--host", self.url, *arguments)

    def copy_image(self, image: str) -> None:
        """Give it an image of the machine's engine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            load = ["docker", "--host", self.url, "load", "--quiet"]
            subprocess.run(load, stdin=saved.stdout, stdout=subprocess.DEVNULL, check=True)

    @property
    def log(self) -> str:
        """What it has logged so far."""
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def remove(self) -> None:
        """End its containers and itself, and delete its folders; whatever state it is in."""
        if self._process is None:
            self.start(live_restore=False)
        if left := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", "--volumes", *left)
        if left := self.docker("network", "ls", "--quiet", "--filter", "label=kato.deployment").split():
            self.docker("network", "rm", *left)
        self.stop()
        self._containerd.terminate()
        self._containerd.wait(_END_MAX_S)
        # After a live restore dockerd leaves it mounted, on itself.
        subprocess.run(["umount", self._directory / "data"], capture_output=True, check=False)
        shutil.rmtree(self._directory)

    @property
    def _containerd_address(self) -> str:
        return f"{self._directory}/containerd.sock"

    def _containerd_config(self) -> Path:
        """Write it: containerd is a service of its own, as on other machines, and outlives a dockerd that is killed."""
        config = self._directory / "containerd.toml"
        config.write_text(
            f'''version = 2
root = "{self._directory}/containerd"
state = "{self._directory}/containerd-run"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{self._containerd_address}"
'''
        )
        return config

    def _begun(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        command = ["docker", "--host", self.url, "info"]
        return not subprocess.run(command, capture_output=True, check=False).returncode

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(_END_MAX_S)
        self._process = None


@contextmanager
def own_engine() -> Iterator[tuple[OwnEngine, str]]:
    """Provide an engine that has the image under test, and an address of this machine that its containers reach.

    The bridge is a network of the machine's engine, on which nothing is.
    """
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("needs root, and dockerd")
    bridge = f"kt-{uuid4().hex[:8]}"
    docker("network", "create", "--label", LABEL, "--opt", f"com.docker.network.bridge.name={bridge}", bridge)
    engine = OwnEngine(Path(tempfile.mkdtemp(prefix="kt-")), bridge)
    try:
        [network] = json.loads(docker("network", "inspect", bridge))
        engine.start(live_restore=False)
        engine.copy_image(IMAGE)
        engine.stop()
        yield engine, network["IPAM"]["Config"][0]["Gateway"]
    finally:
        engine.remove()
        docker("network", "rm", bridge)
