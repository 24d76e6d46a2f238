"""MongoDB for the tests: one server for the whole run, and a database of its own for each test.

The server is KATO_TEST_MONGO_URL if that is set; else the `mongo` image through testcontainers, where the engine has it
or its registry answers; else the stand-in `secantusdb`, a process of its own on loopback. Tests that stop, freeze or
kill their server have a StandIn for themselves. Failure points are the server's own `failCommand`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

import kato_node

IMAGE = "mongo:8"
STAND_IN_IMAGE = f"kato-test-mongo:{kato_node.__version__}"
PORT = 27017
START_TIMEOUT_S = 30.0

_REGISTRY_TIMEOUT_S = 5.0
_STARTS_MAX = 3  # a free port may be taken before the server has it
_POLL_S = 0.02
# Ends with whoever started it, however that ends.
_MAIN = "import ctypes, runpy; ctypes.CDLL(None).prctl(1, 9); runpy.run_module('secantus', run_name='__main__')"

Client = MongoClient[dict[str, Any]]


class StandIn(AbstractContextManager["StandIn"]):
    """The stand-in on a port and a folder of its own, `with StandIn(folder) as server`; it can be killed and restarted.

    Args:
        directory: made if missing; the data go in the end, the log stays.
        options: of the stand-in's command line.
        host: the address that it listens at; containers do not reach the loopback.
    """

    def __init__(self, directory: Path, *options: str, host: str = "127.0.0.1") -> None:
        self._data = directory / "data"
        self._log = directory / "mongo.log"
        self._options = options
        self._host = host
        self._port = _free_port(host)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The same for life."""
        return f"mongodb://{self._host}:{self._port}/"

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._host, self._port

    def __enter__(self) -> StandIn:
        for attempt in range(1, _STARTS_MAX + 1):
            try:
                self.start()
            except RuntimeError:
                if attempt == _STARTS_MAX:
                    raise
                self._port = _free_port(self._host)
            else:
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._data, ignore_errors=True)

    def start(self) -> None:
        """Start it, again on the same port and data, and wait until it answers. Raises: RuntimeError, with its log."""
        self._data.mkdir(parents=True, exist_ok=True)
        arguments = [
            "--host",
            self._host,
            "--port",
            str(self._port),
            "--storage-path",
            str(self._data),
            "--sync-on-commit",
            *self._options,
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-c", _MAIN, *arguments], stdout=log, stderr=log)
        give_up_at_s = time.monotonic() + START_TIMEOUT_S
        while not _listens(self.address):
            if self._process.poll() is not None or time.monotonic() > give_up_at_s:
                self.kill()
                raise RuntimeError(f"the MongoDB stand-in did not start:\n{self._log.read_text(errors='replace')}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """End it without warning, frozen or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it answer nothing any more, connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def mongo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of this run's MongoDB."""
    given = os.environ.get("KATO_TEST_MONGO_URL")
    if given:
        yield given
    elif _image_at_hand():
        with _in_testcontainer() as url:
            yield url
    else:
        with StandIn(tmp_path_factory.mktemp("mongo"), "--enable-test-commands") as server:
            yield server.url


@pytest.fixture(scope="session")
def mongo_admin(mongo_url: str) -> Iterator[Client]:
    """A client of this run's MongoDB, for looking behind the code under test."""
    with Client(mongo_url, serverSelectionTimeoutMS=int(START_TIMEOUT_S * 1000)) as client:
        client.admin.command("ping")
        yield client


@pytest.fixture
def mongo_database(mongo_admin: Client) -> Iterator[str]:
    """The name of a database of this test's own, dropped afterwards."""
    name = f"kato-test-{uuid4().hex}"
    yield name
    if not os.environ.get("KATO_TEST_MONGO_URL"):  # else it is not ours alone
        mongo_admin.admin.command("killAllSessions", [])  # to drop a database waits for every transaction in it
    mongo_admin.drop_database(name)


@contextmanager
def mongo_in_container(network: str) -> Iterator[str]:
    """Run the stand-in as a container on that network; yield its URL, for this host and for the network's containers.

    Needs the image STAND_IN_IMAGE, which listens on PORT. Nothing of it is left afterwards.
    """
    name = f"kato-test-mongo-{uuid4().hex[:12]}"
    _docker("run", "--detach", "--name", name, "--label", "kato.test=mongo", "--network", network, STAND_IN_IMAGE)
    try:
        networks = json.loads(_docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", name))
        address = networks[network]["IPAddress"]
        url = f"mongodb://{address}:{PORT}/?directConnection=true"  # the address that it knows of itself is 0.0.0.0
        with closing(Client(url, serverSelectionTimeoutMS=int(START_TIMEOUT_S * 1000))) as client:
            client.admin.command("ping")
        yield url
    except PyMongoError as error:
        raise RuntimeError(f"{STAND_IN_IMAGE} does not answer:\n{_docker('logs', name)}") from error
    finally:
        _docker("rm", "--force", "--volumes", name)


@contextmanager
def _in_testcontainer() -> Iterator[str]:
    """Run MongoDB itself as a replica set of one, with failure points."""
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    testcontainers_config.ryuk_disabled = True  # one image more to have; the container goes with this block
    command = "--replSet kato --bind_ip_all --setParameter enableTestCommands=1"
    with DockerContainer(IMAGE).with_command(command).with_exposed_ports(PORT) as container:
        url = f"mongodb://{container.get_container_host_ip()}:{container.get_exposed_port(PORT)}/?directConnection=true"
        with closing(Client(url, serverSelectionTimeoutMS=int(START_TIMEOUT_S * 1000))) as client:
            _initiate(client)
        yield url


def _initiate(client: Client) -> None:
    """Make a replica set of one, and wait until it takes writes."""
    give_up_at_s = time.monotonic() + START_TIMEOUT_S
    members = [{"_id": 0, "host": f"127.0.0.1:{PORT}"}]
    client.admin.command("replSetInitiate", {"_id": "kato", "members": members})
    while not client.admin.command("hello")["isWritablePrimary"]:
        assert time.monotonic() < give_up_at_s, "the replica set never elected its member"
        time.sleep(_POLL_S)


def _image_at_hand() -> bool:
    """Whether the engine has MongoDB's image, or its registry answers for it; told within seconds."""
    if shutil.which("docker") is None:
        return False
    return any(
        _succeeds("docker", *question) for question in (("image", "inspect", IMAGE), ("manifest", "inspect", IMAGE))
    )


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=_REGISTRY_TIMEOUT_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _docker(*arguments: str) -> str:
    """Return what the engine answers. Raises: RuntimeError, with its words."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _listens(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0
