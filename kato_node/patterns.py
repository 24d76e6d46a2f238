"""The operations on patterns themselves: correct, delete, list, count. Edits are decided by the writer, like learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from kato_node import replies
from kato_node.domain import edit, survey
from kato_node.domain.config import Config
from kato_node.domain.edit import PatternEdit
from kato_node.domain.learn import Pattern, bare_name, display_name
from kato_node.domain.limits import Limits
from kato_node.domain.ltm import Ltm, LtmChange, LtmReader, LtmView
from kato_node.domain.state import Json
from kato_node.ownership import Ownership
from kato_node.predictor import Predictor
from kato_node.replies import Reply
from kato_node.store.base import SessionRecord, StoreUnavailable
from kato_node.turns import RetryKey, Step, Turns
from kato_node.writer import Writer


class ProcessorPatterns:
    """What was learned, corrected and told of as a whole.

    An edit runs in its session's turn, and may raise what any mutating call of ProcessorService may. Reads are checked
    as those of ProcessorReads are.
    """

    def __init__(
        self,
        *,
        processor_id: str,
        limits: Limits,
        ltm: Ltm,
        turns: Turns,
        writer: Writer,
        ownership: Ownership,
        predictor: Predictor,
    ) -> None:
        self._processor_id = processor_id
        self._limits = limits
        self._ltm = ltm
        self._turns = turns
        self._writer = writer
        self._ownership = ownership
        self._predictor = predictor
        self._listed: tuple[int, str | None, Sequence[Pattern]] | None = None  # the latest listing, to page through

    async def update(
        self, session_id: str | None, pattern_id: str, wanted: PatternEdit, *, retry: RetryKey | None = None
    ) -> Reply:
        """Replace what the edit gives; return {pattern, processor_id}.

        Raises: PatternNotFound, MemoryTooLarge, IdempotencyKeyReused.
        """
        return await self._turns.mutate(session_id, retry, partial(self._update, pattern_id, wanted))

    async def delete(self, session_id: str | None, pattern_id: str, *, retry: RetryKey | None = None) -> Reply:
        """Delete the pattern, and every trace of it; return {status, name}. Raises: PatternNotFound, …Reused."""
        return await self._turns.mutate(session_id, retry, partial(self._delete, pattern_id))

    async def page(self, *, after: str, limit: int, contains: str | None) -> tuple[Reply, str | None]:
        """Return {patterns, total} of those after the name, and the name that the next page begins after, if any."""
        stale = await self._settled()
        page = survey.page(await self._listing(contains), after=after, limit=limit)
        body: Reply = {"patterns": [replies.pattern(pattern) for pattern in page.patterns], "total": page.total}
        return await self._answer(body, stale=stale), page.after

    async def symbol_statistics(self) -> Reply:
        """Return {symbols: {symbol: {frequency, pattern_member_frequency}}}."""
        return await self._surveyed("symbols", _statistics)

    async def symbol_affinities(self) -> Reply:
        """Return {affinities: {symbol: {emotive: sum}}}."""
        return await self._surveyed("affinities", survey.affinities)

    async def _update(self, pattern_id: str, wanted: PatternEdit, record: SessionRecord, _config: Config) -> Step:
        put: list[Pattern] = []

        def decide(ltm: LtmReader) -> LtmChange:
            change = edit.edited(ltm, pattern_id, wanted, limits=self._limits)
            put.extend(change.put)
            return change

        return Step(
            state=record.state,
            reply=lambda: {"pattern": replies.pattern(put[-1]), "processor_id": self._processor_id},
            edits=(decide,),
        )

    async def _delete(self, pattern_id: str, record: SessionRecord, _config: Config) -> Step:
        return Step(
            state=record.state,
            reply={"status": "deleted", "name": display_name(bare_name(pattern_id))},
            edits=(lambda ltm: edit.deleted(ltm, pattern_id),),
        )

    async def _listing(self, contains: str | None) -> Sequence[Pattern]:
        """Return the listing of now, which is worked out once for all of its pages."""
        view = self._ltm.view()
        if self._listed is not None and self._listed[:2] == (view.version, contains):
            return self._listed[2]
        patterns = await self._predictor.worked_out(partial(survey.listing, view, contains=contains))
        self._listed = (view.version, contains, patterns)
        return patterns

    async def _surveyed(self, name: str, survey_of: Callable[[LtmView], Json]) -> Reply:
        stale = await self._settled()
        found = await self._predictor.worked_out(partial(survey_of, self._ltm.view()))
        return await self._answer({name: found}, stale=stale)

    async def _settled(self) -> bool:
        """Return whether the LTM may be behind the store, which is out of reach."""
        try:
            await self._writer.settled()
        except StoreUnavailable:
            return True
        return False

    async def _answer(self, body: Reply, *, stale: bool) -> Reply:
        if await self._ownership.degraded() or stale:
            body["degraded"] = True
        return body


def _statistics(view: LtmView) -> Json:
    return {
        symbol: {"frequency": one.frequency, "pattern_member_frequency": one.pattern_member_frequency}
        for symbol, one in survey.symbol_statistics(view).items()
    }
