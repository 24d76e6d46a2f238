"""Starting and stopping the gateway's program: what it says, what it leaves, and when it refuses."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.e2e.gateway_process import PATIENCE_S, Gateway, eventually, gateway, start


def refused(home: Path, *arguments: str, **settings: str) -> tuple[int, str]:
    """Start a gateway that is to refuse; return its exit status and what it said, which must be one line."""
    process = start(home, *arguments, **settings)
    out, _ = process.communicate(timeout=PATIENCE_S)
    said = (home.parent / f"{home.name}.log").read_text()
    assert out == ""
    assert len(said.splitlines()) == 1, said
    return process.returncode, said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_HOST", "0.0.0.0"),
        ("GATEWAY_PORT", "http"),
        ("RUNTIME", "docker"),
        ("MONGO_URL", "localhost:27017"),
        ("MONGO_URL", "mongodb://ann:hush:hush@localhost"),
        ("API_KEYS", "a:b"),
        ("KATO_SPEED", "9"),
        ("RECALL_THRESHOLD", "2"),
        ("STM_MODE", "rolling"),
    ],
)
def test_bad_settings_stop_the_start(tmp_path: Path, name: str, value: str) -> None:
    """A setting that cannot be used, the nodes' defaults included, is exit status 2 and one line that names it."""
    status, said = refused(tmp_path / "home", **{name: value})
    assert status == 2
    assert name in said
    assert "hush" not in said
    assert not (tmp_path / "home" / "forkserver").exists()


def test_a_start_without_settings_loads_no_driver(tmp_path: Path) -> None:
    """What only Docker or MongoDB need is not even imported where they are not asked for."""
    program = (
        "import asyncio, pathlib, sys, kato_gateway.__main__; from container_manager.manager import choose_runtime;"
        "asyncio.run(choose_runtime(wanted='auto', home=pathlib.Path(sys.argv[1]), deployment='d'));"
        "sys.exit(len({'docker', 'requests', 'pymongo', 'bson'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 0


def test_what_nodes_are_is_said_where_nobody_chose(tmp_path: Path) -> None:
    """After the line that says where it serves comes one that says what its nodes are, and why."""
    with gateway(tmp_path / "home") as running:
        assert running.process.stdout is not None
        said = running.process.stdout.readline()
        assert "processes" in said
        assert "MONGO_URL" in said


def test_a_taken_port_stops_the_start(tmp_path: Path) -> None:
    """A port that somebody else has is exit status 1, one line with the way out, and nothing was started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, said = refused(tmp_path / "home", GATEWAY_PORT=str(port))
    assert status == 1
    assert f"127.0.0.1:{port}" in said
    assert "GATEWAY_PORT" in said
    assert not (tmp_path / "home" / "forkserver").exists()


def test_a_home_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """A home in the place of a file is exit status 1 and one line that names it."""
    (tmp_path / "file").touch()
    process = start(tmp_path / "home", KATO_HOME=str(tmp_path / "file"))
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert str(tmp_path / "file") in (tmp_path / "home.log").read_text()


def test_one_gateway_serves_a_home(tmp_path: Path) -> None:
    """A second gateway on one home is refused with the pid of the first, which goes on."""
    with gateway(tmp_path / "home") as running:
        process = start(tmp_path / "home", LOG_LEVEL="ERROR")
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert f"pid {running.process.pid}" in running.log
        assert running.ask("GET", "/health")["status"] == "healthy"


def at_terminal(home: Path, **settings: str) -> tuple[int, int, bytes]:
    """Start a gateway in a terminal of its own: its pid, the terminal, and what stands there when it serves."""
    pid, terminal = pty.fork()
    if pid == 0:
        usual = {"KATO_HOME": str(home), "GATEWAY_PORT": "0", "WARM_POOL_SIZE": "1", "PATH": os.environ["PATH"]}
        os.execve(sys.executable, [sys.executable, "-m", "kato_gateway"], {**usual, **settings})
    said = b""
    while b"Ctrl-C ends it" not in said:
        said += os.read(terminal, 4096)
    return pid, terminal, said


@pytest.mark.parametrize(("settings", "shown"), [({}, False), ({"LOG_LEVEL": "INFO"}, True)])
def test_a_terminal_shows_no_more_than_people_read(tmp_path: Path, settings: dict[str, str], shown: bool) -> None:
    """On a terminal the first line is where it serves: the log begins at WARNING, unless LOG_LEVEL says otherwise."""
    pid, terminal, said = at_terminal(tmp_path / "home", **settings)
    os.close(terminal)
    os.waitpid(pid, 0)
    assert (b"gateway_started" in said) is shown
    assert said.startswith(b"KATO serves at ") is not shown


def test_a_closed_terminal_ends_it(tmp_path: Path) -> None:
    """When the terminal that it was started in goes away the gateway ends like after Ctrl-C."""
    home = Gateway(tmp_path / "home")
    pid, terminal, _ = at_terminal(home.home)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    eventually(lambda: not home.processes(), "the end of every process of the home")
    home.client.close()


def test_nobody_needs_to_read_what_it_says(tmp_path: Path) -> None:
    """A gateway whose standard output has been closed at the other end stops as cleanly as any."""
    with gateway(tmp_path / "home") as running:
        assert running.process.stdout is not None
        running.process.stdout.close()
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.process.wait(PATIENCE_S) == 0


def test_ipv6_is_served(tmp_path: Path) -> None:
    """A gateway on ::1 says an address that works."""
    with gateway(tmp_path / "home", GATEWAY_HOST="::1") as running:
        assert running.url.startswith("http://[::1]:")
        session = running.ask("POST", "/sessions")
        with connect(session["ws_url"]) as talk:
            talk.send('{"type": "ping"}')
            assert "pong" in talk.recv()


def test_keys_that_everybody_can_read_are_warned_of(tmp_path: Path) -> None:
    """A file of keys that every user of the machine can read is warned of, with what to do; another one not."""
    keys = tmp_path / "keys"
    keys.write_text("ann:a-key-of-nobody-at-all\n")
    warned = []
    for mode in (0o644, 0o640):
        keys.chmod(mode)
        with gateway(tmp_path / f"home-{mode:o}", API_KEYS_FILE=str(keys), WARM_POOL_SIZE="0") as running:
            lines = [json.loads(line) for line in running.log.splitlines()]
            warned.append([line for line in lines if line["event"] == "file_open_to_all"])
    [told], private = warned
    assert (told["level"], told["setting"], told["advice"]) == ("WARNING", "API_KEYS_FILE", f"chmod o= {keys}")
    assert private == []


def test_a_limit_that_is_not_enforced_is_said_so(tmp_path: Path) -> None:
    """The process runtime cannot limit memory or CPUs: a setting that asks for it is answered with a line each."""
    with gateway(tmp_path / "home", NODE_MEMORY_MAX="256m", NODE_CPUS_MAX="0.5") as running:
        lines = [json.loads(line) for line in running.log.splitlines()]
    said = [line["setting"] for line in lines if line["event"] == "limit_not_enforced"]
    assert said == ["NODE_MEMORY_MAX", "NODE_CPUS_MAX"]


def test_help_starts_nothing(tmp_path: Path) -> None:
    """--help explains; an unknown argument is refused with exit status 2."""
    helped = start(tmp_path / "home", "--help")
    out, _ = helped.communicate(timeout=PATIENCE_S)
    assert (helped.returncode, "usage" in out) == (0, True)
    odd = start(tmp_path / "home", "--port", "1")
    odd.communicate(timeout=PATIENCE_S)
    assert odd.returncode == 2
    assert not (tmp_path / "home").exists()


def test_a_stop_at_any_moment_of_the_start_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while the first nodes are being started ends all of them."""
    process = start(tmp_path / "home", WARM_POOL_SIZE="3")
    home = Gateway(tmp_path / "home")
    eventually((tmp_path / "home" / "forkserver").exists, "a start")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode in {0, 130}
    eventually(lambda: not home.processes(), "the end of every process of the home")
    home.client.close()


def test_a_second_ctrl_c_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    """However many nodes are just being started, one Ctrl-C after the other ends all of them."""
    with gateway(tmp_path / "home", WARM_POOL_SIZE="40") as running:
        eventually(running.nodes, "a node")
        os.killpg(running.process.pid, signal.SIGINT)
        eventually(lambda: "gateway_stopping" in running.log, "a stop")
        assert running.stop() in {0, 130, -signal.SIGINT}  # it may come when there is nothing left to hurry
        assert running.nodes() == {}


def test_a_second_ctrl_c_hurries(tmp_path: Path) -> None:
    """With a node that does not end by itself the first Ctrl-C waits; a second one does not, and leaves nothing."""
    with gateway(tmp_path / "home", WARM_POOL_SIZE="0") as running:
        session_id = running.ask("POST", "/sessions")["session_id"]
        running.ask("POST", f"/sessions/{session_id}/observe", {"strings": ["a"]})
        pid = running.pid_of(session_id)
        os.kill(pid, signal.SIGSTOP)
        os.killpg(running.process.pid, signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(1.0)
        assert running.stop() == 0
        assert running.nodes() == {}
        running.start()
        assert running.ask("GET", f"/sessions/{session_id}/stm")["stm"] == [["a"]]
