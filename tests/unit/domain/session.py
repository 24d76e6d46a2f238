"""A session and its processor's LTM, driven through the domain's public functions alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from kato_node.domain.config import DEFAULT, Config
from kato_node.domain.learn import Transition, learn
from kato_node.domain.limits import LIMITS, Limits
from kato_node.domain.ltm import CLEARED, Ltm, learned_into
from kato_node.domain.observation import Observation, validated
from kato_node.domain.observe import clear_stm, observe
from kato_node.domain.predict import Ranking, predict
from kato_node.domain.state import EMPTY, Json, SessionState, Stm
from kato_node.domain.vectors import neighbors_of


class Session:
    """One session on an LTM, which it may share."""

    def __init__(self, ltm: Ltm | None = None, *, limits: Limits = LIMITS, **values: object) -> None:
        self.ltm = Ltm() if ltm is None else ltm
        self.config: Config = DEFAULT.updated(values)
        self.state: SessionState = EMPTY
        self.limits = limits

    def observe(
        self,
        *strings: str,
        vectors: Sequence[Sequence[float]] = (),
        emotives: Mapping[str, float] | None = None,
        metadata: Mapping[str, Json] | None = None,
    ) -> str | None:
        """Observe one event; return the auto-learned name."""
        observation = validated(
            Observation(strings=strings, vectors=vectors, emotives=emotives or {}, metadata=metadata or {}),
            limits=self.limits,
        )
        return self._apply(
            observe(
                self.state,
                observation,
                config=self.config,
                dimension=self.ltm.dimension,
                neighbors=neighbors_of(observation.vectors, self.ltm.vectors, config=self.config),
                limits=self.limits,
            )
        )

    def observe_all(self, events: Stm) -> None:
        """Observe each event."""
        for event in events:
            self.observe(*event)

    def learn(self) -> str | None:
        """Learn the STM; return the name."""
        return self._apply(learn(self.state, config=self.config))

    def clear_stm(self) -> None:
        """Clear this session."""
        self.state = clear_stm(self.state)

    def clear_all(self) -> None:
        """Clear this session and the LTM."""
        self.clear_stm()
        self.ltm.apply(CLEARED)

    def predict(self) -> Ranking:
        """Predict from the STM."""
        return predict(self.state.stm, config=self.config, ltm=self.ltm.view())

    def _apply(self, step: Transition) -> str | None:
        if step.episode is not None:
            self.ltm.apply(learned_into(self.ltm, step.episode, limits=self.limits))
        self.state = step.state
        return step.learned


def events(text: str) -> Stm:
    """Read events as the page writes them: one symbol each, unless bracketed."""
    return tuple(tuple(event.strip("[]").split()) for event in re.findall(r"\[[^]]*\]|\S+", text))


def learned(*patterns: str) -> Ltm:
    """Return an LTM that learned these patterns, in this order."""
    session = Session()
    for pattern in patterns:
        session.observe_all(events(pattern))
        session.learn()
    return session.ltm


def predicted(observed: str, ltm: Ltm, **config: object) -> Ranking:
    """Return what a new session predicts after these observations."""
    session = Session(ltm)
    session.config = DEFAULT.updated(config)
    session.observe_all(events(observed))
    return session.predict()
