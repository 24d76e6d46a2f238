"""What one run does: its sessions, what each of their clients asks for, and what goes wrong when; all from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kato_node.domain.learn import pattern_name
from tests.chaos.operations import Body, Json, Op

MOTIFS: Sequence[Sequence[str]] = (("do", "re"), ("mi", "fa", "sol"))
"""What every client learns now and then, so that frequencies grow beyond 1 and patterns are corrected by two."""
MOTIF_NAMES = tuple(pattern_name(tuple((symbol,) for symbol in motif)) for motif in MOTIFS)

_CONFIGS: Sequence[Body] = ({}, {"max_pattern_length": 3}, {"persistence": 1})
_OPS = (6, 11)  # of each client, roughly
_LASTS_S = (0.3, 2.0, 7.0, 45.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """A session and its client.

    Attributes:
        door: by which of a ground's doors the client goes in.
        config: the session's own.
        script: what the client asks for, in order.
    """

    session_id: str
    processor_id: str
    door: str
    config: Body
    script: Sequence[Op]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: of a ground's faults.
        session: the number of the session whose node is concerned, where a node is.
        at_call: of all clients' calls, the one with which it begins.
        delay: how far into the call: a share of its usual duration.
        lasts_s: how long, where it lasts.
    """

    name: str
    session: int
    at_call: int
    delay: float
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.name} of {self.session} at call {self.at_call} + {self.delay:.2f}, {self.lasts_s} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run."""

    seed: int
    sessions: Sequence[SessionPlan]
    faults: Sequence[Fault]

    @property
    def calls(self) -> int:
        """How many operations its clients ask for."""
        return sum(len(session.script) for session in self.sessions)


def drawn(
    seed: int, *, doors: Sequence[str], faults: Sequence[str], prefix: str = "", lasts_s_max: float = 60.0
) -> Plan:
    """Return the run of that seed: three sessions, of which two share a processor.

    Args:
        doors, faults: what the ground has.
        prefix: of the ids of sessions and processors, where one ground serves several runs.
        lasts_s_max: the longest that a fault may last.
    """
    chance = random.Random(seed)
    sessions = [_session(chance, number, doors, prefix) for number in range(3)]
    calls = sum(len(session.script) for session in sessions)
    lasts = [lasts_s for lasts_s in _LASTS_S if lasts_s <= lasts_s_max]
    return Plan(
        seed=seed,
        sessions=sessions,
        faults=[
            Fault(
                name=chance.choice(faults),
                session=chance.randrange(3),
                at_call=chance.randrange(calls),
                delay=chance.random(),
                lasts_s=chance.choice(lasts),
            )
            for _ in range(chance.choice((1, 2, 2, 3, 4)))
        ],
    )


def _session(chance: random.Random, number: int, doors: Sequence[str], prefix: str) -> SessionPlan:
    config: Body = chance.choice(_CONFIGS)
    return SessionPlan(
        session_id=f"{prefix}s{number}",
        processor_id=f"{prefix}{'ppq'[number]}",
        door=chance.choice(doors),
        config=config,
        script=_script(chance, number, config),
    )


def _script(chance: random.Random, number: int, config: Body) -> Sequence[Op]:
    script = [Op(kind="create", body=config)]
    wanted = chance.randint(*_OPS)
    while len(script) < wanted:
        paragraph = chance.choices(list(_PARAGRAPHS), weights=list(_PARAGRAPHS.values()))[0]
        topic = _Topic(chance=chance, tag=f"{number}.{len(script)}", config=config)
        script += paragraph(topic, patient=chance.random() > 0.06)
    return script


@dataclass(frozen=True, slots=True, kw_only=True)
class _Topic:
    """What a few operations that belong together are about; `tag` makes their symbols their own."""

    chance: random.Random
    tag: str
    config: Body

    def motif(self, *, patient: bool) -> Sequence[Op]:
        observed = [Op(kind="observe", body={"strings": [symbol]}) for symbol in self.chance.choice(MOTIFS)]
        return [Op(kind="clear"), *observed, Op(kind="learn", patient=patient)]

    def motif_at_once(self, *, patient: bool) -> Sequence[Op]:
        motif = self.chance.choice(MOTIFS)
        observations: list[Json] = [{"strings": [symbol], "emotives": {"joy": 0.5}} for symbol in motif]
        body: Body = {"observations": observations, "learn_at_end": True}
        return [Op(kind="clear"), Op(kind="sequence", body=body, patient=patient)]

    def observing(self, *, patient: bool) -> Sequence[Op]:
        count = self.chance.randint(1, 4)
        return [Op(kind="observe", body=self._observation(number), patient=patient) for number in range(count)]

    def sequence(self, *, patient: bool) -> Sequence[Op]:
        observations = [self._observation(number) for number in range(self.chance.randint(1, 4))]
        names = ("learn_after_each", "learn_at_end", "clear_stm_between")
        flags: dict[str, Json] = {name: self.chance.random() < 0.3 for name in names}
        return [Op(kind="sequence", body={"observations": observations, **flags}, patient=patient)]

    def genes(self, *, patient: bool) -> Sequence[Op]:
        return [Op(kind="genes", body={"max_pattern_length": self.chance.choice((0, 2, 4))}, patient=patient)]

    def edit(self, *, patient: bool) -> Sequence[Op]:
        body: Body = {"frequency": self.chance.randint(1, 99)}
        return [Op(kind="edit", pattern=self.chance.choice(MOTIF_NAMES), body=body, patient=patient)]

    def forgetting(self, *, patient: bool) -> Sequence[Op]:
        return [Op(kind="forget", pattern=self.chance.choice(MOTIF_NAMES), patient=patient)]

    def reading(self, **_: bool) -> Sequence[Op]:
        return [Op(kind="stm"), Op(kind="pattern", pattern=self.chance.choice(MOTIF_NAMES))]

    def again(self, **_: bool) -> Sequence[Op]:
        return [Op(kind="end"), Op(kind="create", body=self.config), Op(kind="stm")]

    def learning(self, *, patient: bool) -> Sequence[Op]:
        return [Op(kind="learn", patient=patient)]

    def clearing(self, *, patient: bool) -> Sequence[Op]:
        return [Op(kind="clear", patient=patient)]

    def _observation(self, number: int) -> dict[str, Json]:
        name, chance = f"{self.tag}.{number}", self.chance
        strings: list[Json] = [f"{name}-{letter}" for letter in "ab"[: chance.randint(1, 2)]]
        body: dict[str, Json] = {"strings": strings, "unique_id": name}
        if chance.random() < 0.3:
            body["emotives"] = {"joy": float(chance.randint(-5, 5))}
        if chance.random() < 0.2:
            body["metadata"] = {"page": chance.randint(1, 9)}
        return body


_PARAGRAPHS: Mapping[Callable[..., Sequence[Op]], int] = {
    _Topic.observing: 8,
    _Topic.sequence: 3,
    _Topic.motif: 3,
    _Topic.motif_at_once: 3,
    _Topic.learning: 3,
    _Topic.clearing: 1,
    _Topic.genes: 1,
    _Topic.edit: 2,
    _Topic.forgetting: 1,
    _Topic.reading: 3,
    _Topic.again: 1,
}
