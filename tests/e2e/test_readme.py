"""The README's snippets, run as they stand, give the output that it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from examples.gateway import gateway

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SNIPPET = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ADDRESS = "http://127.0.0.1:8000"
PYTHON = (ROOT / "examples" / "quickstart.py").read_text()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A gateway, as `make up` starts one."""
    with gateway() as url:
        yield url


def shown() -> Iterator[tuple[str, str, str]]:
    """Yield language and text of each snippet that is followed by its output, and that output."""
    snippets = [(match[1], match[2]) for match in SNIPPET.finditer(README)]
    for (language, code), (kind, output) in pairwise(snippets):
        if language in {"sh", "python"} and kind in {"json", "text"}:
            yield language, code, output


def test_every_snippet_gives_the_output_that_it_shows(address: str) -> None:
    """Each curl and Python snippet, in order, prints what stands below it, `…` standing for anything."""
    seen = set()
    for language, code, output in shown():
        seen.add(language)
        command = ["bash", "-ec", code] if language == "sh" else [sys.executable, "-c", code]
        command[-1] = "\n".join(_one_line_each(command[-1])) if language == "sh" else command[-1]
        command[-1] = command[-1].replace(ADDRESS, address)
        real = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        pattern = ".*".join(re.escape(part) for part in output.strip().split("…"))
        assert re.fullmatch(pattern, real.strip().replace(address, ADDRESS)), f"{code}\nprints\n{real}\nnot\n{output}"
    assert seen == {"sh", "python"}


def _one_line_each(script: str) -> list[str]:
    """Return the script's lines, each followed by an end of line, which a terminal's prompt would give."""
    return [f"{line}; echo" for line in script.splitlines()]


def test_the_python_snippet_is_the_example() -> None:
    """The Python in the README is examples/quickstart.py to the letter."""
    assert [match[2].strip() for match in SNIPPET.finditer(README) if match[1] == "python"] == [PYTHON.strip()]


def test_every_page_that_is_linked_is_there() -> None:
    """No link of the README leads nowhere."""
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("example", ["quickstart.py", "walkthrough.sh"])
def test_the_examples_run(address: str, example: str) -> None:
    """Each example ends well against a gateway."""
    program = [sys.executable] if example.endswith(".py") else ["bash"]
    done = subprocess.run(
        [*program, str(ROOT / "examples" / example), address], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "b98534b32c1d7489d4ce1a48724aa65aeecbdba9" in done.stdout


@pytest.mark.parametrize("example", ["quickstart.py", "walkthrough.sh"])
def test_an_example_without_a_gateway_says_so_in_one_line(example: str) -> None:
    """Where nothing listens, an example ends with one line that says what to do."""
    program = [sys.executable] if example.endswith(".py") else ["bash"]
    command = [*program, str(ROOT / "examples" / example), "http://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"no gateway at http://127.0.0.1:1\b.*: start one with `make up`.*\n", done.stderr)
