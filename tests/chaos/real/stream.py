"""kill -9 of a node, again and again, under a client that streams over a WebSocket (`SCENARIO=stream-kills`).

The client sends a few messages ahead of the answers; after a loss it repeats what was not answered, with the same ids.
Every KILL_SPACING messages the node is killed: at a moment uniform over an operation's measured duration, or, every
fifth time, by itself between the commit and the reply.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from statistics import median

import aiohttp

from tests.chaos.checker import check
from tests.chaos.history import Call, History
from tests.chaos.model import Answer
from tests.chaos.operations import Op
from tests.chaos.plan import MOTIFS
from tests.chaos.real import points
from tests.chaos.real.home import PATIENCE_S, Home, eventually, serving
from tests.chaos.real.storage import SqliteFiles, Storage, directory, mongo, mongo_of_containers
from tests.chaos.report import Outcome
from tests.engine import IMAGE

SESSION = "stream"
WINDOW = 6
AFTER_COMMIT_EVERY = 5
AFTER_COMMIT = "between commit and reply"
SPACING = (3, 20)


def on_files(seed: int, kills: int) -> Outcome:
    """Kill so many nodes, processes on SQLite, under one client; return what came of it."""
    with directory(small_disk=False) as path:
        return asyncio.run(_run(seed, kills, path, SqliteFiles(path / "home")))


def on_mongo(seed: int, kills: int) -> Outcome:
    """Do it with processes on the MongoDB protocol."""

    async def run(path: Path) -> Outcome:
        async with mongo(path) as storage:
            return await _run(seed, kills, path, storage)

    with directory(small_disk=False) as path:
        return asyncio.run(run(path))


def in_containers(seed: int, kills: int) -> Outcome:
    """Do it with containers, which take no orders: every kill comes at some moment of an operation."""
    with directory(small_disk=False) as path, mongo_of_containers(IMAGE) as storage:
        return asyncio.run(_run(seed, kills, path, storage))


async def _run(seed: int, kills: int, path: Path, storage: Storage) -> Outcome:
    async with serving(path / "home", storage) as home, aiohttp.ClientSession() as http:
        async with http.post(f"{home.url}/sessions", json={"session_id": SESSION, "node_id": SESSION}) as reply:
            assert reply.status == 201, await reply.text()
        stream = Stream(home, http)
        streaming = asyncio.create_task(stream.run())
        try:
            await _killed(stream, home, random.Random(seed), kills)
            stream.leave = True
            async with asyncio.timeout(PATIENCE_S):
                await streaming
        finally:
            streaming.cancel()
        await _read(stream, home, http)
    return Outcome(
        ground=f"{'docker' if home.in_containers else 'real'} stream-kills",
        seed=seed,
        findings=check(stream.history.calls),
        calls=len(stream.history.calls),
        faults=tuple(stream.kills),
    )


class Stream:
    """The client.

    Attributes:
        answered: how many messages were.
        durations_s: from sending one to its answer.
        kills: what was done to its nodes, in words.
    """

    def __init__(self, home: Home, http: aiohttp.ClientSession) -> None:
        self.history = History()
        self.answered = 0
        self.durations_s: deque[float] = deque(maxlen=50)
        self.kills: list[str] = []
        self.leave = False
        self._url = f"{home.url.replace('http', 'ws', 1)}/sessions/{SESSION}/ws"
        self._home, self._http = home, http
        self._create = self.history.invoke(SESSION, SESSION, Op(kind="create"))
        self.history.answer(self._create, Answer())
        self._unanswered: deque[tuple[int, Call, float]] = deque()
        self._number = 0

    async def node_pid(self) -> int | None:
        """Return the pid of its node."""
        return await self._home.pid_of(self._http, SESSION)

    async def run(self) -> None:
        """Stream until it is to leave, and until everything is answered."""
        while not self.leave or self._unanswered:
            try:
                async with self._http.ws_connect(self._url) as socket:
                    await self._streamed(socket)
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0.01)

    async def _streamed(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        for number, call, _ in self._unanswered:
            call.tries += 1
            await _send(socket, number, call.op)
        while not self.leave or self._unanswered:
            while len(self._unanswered) < WINDOW and not self.leave:
                self._number += 1
                call = self.history.invoke(SESSION, SESSION, _op(self._number))
                self._unanswered.append((self._number, call, time.monotonic()))
                await _send(socket, self._number, call.op)
            message = await socket.receive(timeout=PATIENCE_S)
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            self._told(json.loads(message.data))

    def _told(self, told: dict[str, object]) -> None:
        number, call, at_s = self._unanswered.popleft()
        assert told["id"] == number, "answers come in the order of the messages"
        data = told["data"]
        assert isinstance(data, dict)
        answer = Answer(code=str(data["code"])) if told["type"] == "error" else Answer(body=data)
        self.history.answer(call, answer)
        self.durations_s.append(time.monotonic() - at_s)
        self.answered += 1


def _op(number: int) -> Op:
    """Return the stream's message of that number: motifs that are learned, and now and then something of its own."""
    motif = MOTIFS[number // 7 % len(MOTIFS)]
    place = number % 7
    if place < len(motif):
        return Op(kind="observe", body={"strings": [motif[place]]})
    if place == len(motif):
        return Op(kind="learn")
    return Op(kind="observe", body={"strings": [str(number)]}) if place < 6 else Op(kind="clear")


async def _send(socket: aiohttp.ClientWebSocketResponse, number: int, op: Op) -> None:
    await socket.send_json({"type": op.spelling.message, "payload": dict(op.body), "id": number})


async def _killed(stream: Stream, home: Home, chance: random.Random, kills: int) -> None:
    """Kill node after node, each once the stream has gone on."""
    while len(stream.kills) < kills:
        wanted = stream.answered + chance.randint(*SPACING)
        await eventually(lambda wanted=wanted: stream.answered >= wanted, "answers after a kill")  # type: ignore[misc]
        if len(stream.kills) % AFTER_COMMIT_EVERY == 0 and not home.in_containers:
            await _killed_after_commit(stream, home)
            continue
        share, pid = chance.random(), await stream.node_pid()
        if pid is not None:
            await asyncio.sleep(share * median(stream.durations_s))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                stream.kills.append(f"at {share:.2f} of an operation")


async def _killed_after_commit(stream: Stream, home: Home) -> None:
    """Have the node die between its next commit and the reply."""
    known = set(await home.nodes())
    points.order(home.path, SESSION, "after-commit")

    async def has_ended() -> bool:
        return bool(known - set(await home.nodes()))

    await eventually(has_ended, "a node's end")
    stream.kills.append(AFTER_COMMIT)


async def _read(stream: Stream, home: Home, http: aiohttp.ClientSession) -> None:
    """Ask for all that is there in the end, of a node that knows it from storage alone."""
    pid = await stream.node_pid()
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    names = {
        str(call.answer.body["pattern_name"]).removeprefix("PTRN|")
        for call in stream.history.calls
        if call.op.kind == "learn" and call.answer is not None and call.answer.body.get("pattern_name")
    }
    for op in (Op(kind="stm"), Op(kind="status"), *(Op(kind="pattern", pattern=name) for name in sorted(names))):
        call = stream.history.invoke(SESSION, SESSION, op)
        async with http.get(f"{home.url}/sessions/{SESSION}{op.tail}") as reply:
            stream.history.answer(call, Answer(body=await reply.json()))
