"""What only reads: it never waits for a session's turn, and never answers what a newer owner may have changed."""

from __future__ import annotations

from kato_node.service import Reply, SessionView


class ProcessorReads:
    """The reading operations of one bound processor (api.md, section 1).

    Every answer is checked to be the owner's (decision 5 of architecture.md): a read may raise Fenced; with the store
    out of reach it carries `degraded: true`. Raises also: SessionNotFound; StoreUnavailable for a session that is not
    loaded yet. Callers must not change a reply in place: parts of it are remembered.
    """

    async def session(self, session_id: str | None) -> SessionView:
        """Return the session's effective config and place in time; `created` is False."""
        raise NotImplementedError

    async def stm(self, session_id: str | None) -> Reply:
        """Return {stm, length, processor_id, session_id}."""
        raise NotImplementedError

    async def predictions(self, session_id: str | None, unique_id: str | None = None) -> Reply:
        """Return {predictions, future_potentials, count, processor_id, session_id}; none for an unknown unique_id."""
        raise NotImplementedError

    async def percept_data(self, session_id: str | None) -> Reply:
        """Return {percept_data, processor_id, session_id}; percept_data is {} before the first observation."""
        raise NotImplementedError

    async def cognition_data(self, session_id: str | None) -> Reply:
        """Return {cognition_data, processor_id, session_id}."""
        raise NotImplementedError

    async def genes(self, session_id: str | None) -> Reply:
        """Return {genes, processor_id, session_id}: the session's effective config."""
        raise NotImplementedError

    async def gene(self, session_id: str | None, name: str) -> Reply:
        """Return {gene_name, gene_value, processor_id}. Raises: GeneNotFound."""
        raise NotImplementedError

    async def pattern(self, pattern_id: str) -> Reply:
        """Return {pattern, processor_id}; the id with or without `PTRN|`. Raises: PatternNotFound."""
        raise NotImplementedError

    async def status(self, session_id: str | None) -> Reply:
        """Return {status, processor_id, processor_name, uptime, stm_length, time, patterns, sessions, epoch, version}."""
        raise NotImplementedError

    async def metrics(self, session_id: str | None) -> Reply:
        """Return {observations_processed, patterns_learned, predictions_generated, stm_size, uptime_seconds, …}."""
        raise NotImplementedError

    def health(self, session_id: str | None = None) -> Reply:
        """Return {status, processor_id, uptime (s), stm_length, memory_usage (bytes)}; asks nobody, never raises."""
        raise NotImplementedError
