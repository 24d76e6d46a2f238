"""The image, by what it is and what its containers do."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import httpx
import pytest

import kato_node
from tests.engine import IMAGE, Container, container, docker, eventually

pytestmark = pytest.mark.docker

PUBLISHED = ("--publish", "127.0.0.1::8000")
# As strict as nodes are run: nothing can be written but /tmp, no capability, a user of no name.
STRICT = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--pids-limit", "64", "--memory", "256m", "--user", "54321:54321"),
)
NODES = {
    "static": ("--env", "PROCESSOR_ID=p", "--env", "KATO_HOME=/tmp/kato"),
    "pool": ("--env", "NODE_POOL=1"),
}


def ready(running: Container) -> Container:
    """Wait until the container answers /health."""
    eventually(lambda: answers(running), "an answer of /health")
    return running


def answers(running: Container) -> bool:
    """Say whether the container answers /health. Raises: AssertionError, with its log, if it has ended."""
    assert running.state["Running"], running.log
    try:
        return httpx.get(f"{running.url}/health").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def image() -> dict[str, object]:
    """What the engine knows of the image."""
    found: list[dict[str, object]] = json.loads(docker("image", "inspect", IMAGE))
    return found[0]


@pytest.fixture(scope="module")
def node() -> Iterator[Container]:
    """A static node, run as the image wants it."""
    with container(*PUBLISHED, "--env", "PROCESSOR_ID=p") as running:
        yield ready(running)


def test_nobody_is_root(node: Container) -> None:
    """The image's user is not root, and no program in it lets anybody become root."""
    assert int(node.run("id", "-u")) > 0
    pids = node.run("sh", "-c", "cat /proc/1/status")
    assert re.search(r"^Uid:\t(\d+)\t\1\t\1\t\1$", pids, re.MULTILINE), pids
    assert not re.search(r"^Uid:\t0", pids, re.MULTILINE)


def test_nothing_is_left_that_builds_or_installs(node: Container) -> None:
    """There is no compiler, no pip in any form, no cache of pip's or apt's, and no wheel."""
    script = r"""
        for name in gcc cc g++ clang make ld pip pip3 easy_install git curl wget; do command -v $name; done
        find / -xdev \( -name pip -o -name 'pip-*' -o -name ensurepip -o -name '*.whl' -o -name '*.deb' \)
        find /root/.cache /tmp /var/cache/apt/archives /var/lib/apt/lists -type f ! -name lock
        true"""
    assert docker("exec", "--user", "0", node.id, "sh", "-c", f"{{ {script}; }} 2> /dev/null") == ""


def test_python_has_no_pip(node: Container) -> None:
    """Neither the Python that runs KATO nor the base's own can import pip or ensurepip."""
    script = """
        for python in python /usr/bin/python3 /usr/local/bin/python3; do
          ! command -v $python > /dev/null || $python -c "import importlib.util as u; print(u.find_spec('pip'))"
        done"""
    assert set(node.run("sh", "-c", script).splitlines()) == {"None"}


def test_everything_imported_is_compiled(node: Container) -> None:
    """A start compiles nothing: every module that a node imports was compiled when the image was built."""
    script = (
        "import sys, pathlib, kato_node.__main__\n"
        "found = {m: getattr(m, '__cached__', None) for m in sys.modules.values() if getattr(m, '__file__', '') }\n"
        "print([m.__name__ for m, path in found.items() if path and not pathlib.Path(path).exists()])"
    )
    assert node.run("python", "-c", script) == "[]"


def test_labels_say_what_it_is(image: dict[str, dict[str, dict[str, str]]]) -> None:
    """The OCI labels have title, version, revision, licence and the time of the revision."""
    labels = {name.rpartition(".")[2]: value for name, value in image["Config"]["Labels"].items()}
    assert labels["title"] == "KATO"
    assert labels["licenses"] == "MIT"
    assert labels["version"] == kato_node.__version__
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", labels["created"])


def test_it_is_small(image: dict[str, int]) -> None:
    """The image is smaller than 250 MB."""
    assert image["Size"] < 250_000_000


@pytest.mark.parametrize("kind", NODES)
def test_a_strict_container_runs_a_node(kind: str) -> None:
    """A static node and a node of the pool serve with a read-only root, no capabilities any uid, and turn healthy."""
    with container(*PUBLISHED, *STRICT, *NODES[kind], "--health-interval", "1s") as running:
        ready(running)
        eventually(lambda: running.state["Health"]["Status"] == "healthy", "healthy")
        assert httpx.get(f"{running.url}/health").json()["status"] == "healthy"


def test_the_gateway_runs_from_the_same_image() -> None:
    """`python -m kato_gateway` serves sessions from this image, turns healthy, and ends with 0 at SIGTERM."""
    settings = ("--env", "API_KEYS=ann:0123456789abcdef", "--env", "GATEWAY_HOST=0.0.0.0", "--env", "RUNTIME=process")
    command = ("python", "-m", "kato_gateway")
    with container(*PUBLISHED, *settings, "--health-interval", "1s", command=command) as running:
        ready(running)
        eventually(lambda: running.state["Health"]["Status"] == "healthy", "healthy")
        headers = {"Authorization": "Bearer 0123456789abcdef"}
        with httpx.Client(base_url=running.url, headers=headers, timeout=30.0) as client:
            session = client.post("/sessions", json={"session_id": "s"}).raise_for_status().json()
            assert session["status"] == "active"
            assert client.get("/sessions/s/stm").json()["stm"] == []
        docker("stop", "--time", "10", running.id)
        assert running.exit_code() == 0, running.log


def test_the_health_check_fails_when_nothing_answers() -> None:
    """The health check fails while the node does not answer: here, frozen by its administrator."""
    with container(*PUBLISHED, *NODES["pool"]) as running:
        check = ready(running).inspect()["Config"]["Healthcheck"]["Test"][1:]
        assert running.run(*check) == ""
        with pytest.raises(RuntimeError, match="refused"):
            running.run("env", "PORT=9", *check)


def test_sigterm_lets_an_operation_finish() -> None:
    """At SIGTERM an operation in flight is answered, and the container ends with 0 within 10 s."""
    with container(*PUBLISHED, *NODES["static"], "--env", "MAX_PATTERN_LENGTH=2") as running:
        with httpx.Client(base_url=ready(running).url, timeout=30.0) as client:
            events = [{"strings": [f"s{number}"]} for number in range(600)]
            client.post("/observe-sequence", json={"observations": events}).raise_for_status()
            *lines, last = client.get("/export").text.splitlines(keepends=True)
            client.post("/clear-all").raise_for_status()

        stopping: list[subprocess.Popen[bytes]] = []

        def body() -> Iterator[bytes]:
            yield "".join(lines).encode()
            eventually(lambda: patterns(running), "a first batch that is in")
            stopping.append(subprocess.Popen(["docker", "stop", "--time", "10", running.id], stdout=subprocess.DEVNULL))
            eventually(lambda: '"draining"' in running.log, "a node that drains")
            yield last.encode()

        reply = httpx.post(f"{running.url}/import", content=body(), headers={"Content-Type": "application/x-ndjson"})
        assert reply.json()["imported"] == len(lines), reply.text
        assert running.exit_code() == 0, running.log  # it would be 137 after 10 s
        assert [command.wait() for command in stopping] == [0]


def patterns(running: Container) -> list[object]:
    """Return some of the node's patterns."""
    found: list[object] = httpx.get(f"{running.url}/patterns").json()["patterns"]
    return found
