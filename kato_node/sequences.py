"""A sequence of observations: applied all or none, so everything is decided first and written once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from kato_node import replies
from kato_node.domain.learn import Episode, Transition
from kato_node.domain.limits import Limits
from kato_node.domain.ltm import LtmReader, Staged, learned_into
from kato_node.domain.observation import Observation
from kato_node.domain.state import SessionState, Stm
from kato_node.replies import Reply
from kato_node.sessions import CHECKPOINTS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRequest:
    """The observations of one call, applied all or none, and what is learned or cleared between them."""

    observations: Sequence[Observation]
    learn_after_each: bool = False
    learn_at_end: bool = False
    clear_stm_between: bool = False


class Course:
    """What a sequence has come to so far.

    Attributes:
        ltm: the processor's with what this sequence has learned on top, as its next observation must see it.
        results: the reply's item of each observation.
        episodes, names: what was learned, in order, and the names to show.
        checkpoints: the newest STMs by unique_id.
    """

    def __init__(self, state: SessionState, ltm: LtmReader, *, limits: Limits) -> None:
        self.state = state
        self.ltm = Staged(ltm)
        self.results: list[Reply] = []
        self.episodes: list[Episode] = []
        self.names: list[str] = []
        self.checkpoints: deque[tuple[str, Stm]] = deque(maxlen=CHECKPOINTS_MAX)
        self._limits = limits

    def observed(self, transition: Transition, *, unique_id: str) -> None:
        """Go on from an observation."""
        self.learned(transition)
        self.results.append(replies.sequence_item(transition, position=len(self.results), unique_id=unique_id))
        self.checkpoints.append((unique_id, transition.observed))

    def learned(self, transition: Transition) -> None:
        """Go on from a learn, which may have learned nothing. Raises: VectorDimensionMismatch, MemoryTooLarge."""
        self.state = transition.state
        if transition.learned:
            self.names.append(transition.learned)
        if transition.episode is not None:
            self.episodes.append(transition.episode)
            if transition.episode.vectors:  # observations see nothing else of the LTM
                self.ltm.apply(learned_into(self.ltm, transition.episode, limits=self._limits))
