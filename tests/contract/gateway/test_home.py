"""The gateway's folder: one gateway at a time, an id and a secret that are made once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kato_gateway.home import HomeError, deployment_id, deployment_secret, held

HOLDER = """
import sys
from pathlib import Path
from kato_gateway.home import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_home_is_held_by_one_process(tmp_path: Path) -> None:
    """A second gateway is refused, told the pid of the first; once that is killed the home is free."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(HomeError, match=rf"pid {holder.pid}\b"), held(tmp_path):
            pass
        holder.kill()
    with held(tmp_path):
        assert (tmp_path / "gateway.lock").read_text() == f"{os.getpid()}\n"
    with held(tmp_path):
        pass


def test_a_home_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """A missing home is made, with its parents, for nobody else to look into."""
    home = tmp_path / "a" / "b"
    with held(home):
        assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A home in the place of a file is one line that names it."""
    (tmp_path / "file").touch()
    with pytest.raises(HomeError, match="file/home"), held(tmp_path / "file" / "home"):
        pass


def test_id_and_secret_are_made_once(tmp_path: Path) -> None:
    """Both stay what they are, differ from home to home, and only their owner can read the secret."""
    other = tmp_path / "other"
    other.mkdir()
    first, secret = deployment_id(tmp_path), deployment_secret(tmp_path, None)
    assert deployment_id(tmp_path) == first != deployment_id(other)
    assert deployment_secret(tmp_path, None) == secret != deployment_secret(other, None)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deployment", "other", "secret"]


def test_a_secret_of_ones_own_must_be_one(tmp_path: Path) -> None:
    """A secret file that is given is used as it is; a missing, short or odd one is refused and never made."""
    given = tmp_path / "given"
    with pytest.raises(HomeError, match="given"):
        deployment_secret(tmp_path, given)
    for text in (b"", b"short", b"\xff" * 40):
        given.write_bytes(text)
        with pytest.raises(HomeError, match="given"):
            deployment_secret(tmp_path, given)
    given.write_text("0123456789abcdef\n")
    assert deployment_secret(tmp_path, given) == "0123456789abcdef"


def test_no_draft_is_left_where_nothing_can_be_written(tmp_path: Path) -> None:
    """If the file cannot be made, the error names it and nothing remains."""
    home = tmp_path / "gone"
    with pytest.raises(HomeError, match="deployment"):
        deployment_id(home)
    assert list(tmp_path.iterdir()) == []
