"""Whom to start, expire, recover: pure functions of records and a clock value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecyclePolicy:
    """The lifecycle's settings; times in seconds.

    Attributes:
        warm_pool_size: booted unbound nodes to keep ready; 0: none.
        nodes_max: live nodes admitted at once, those being started and those in the pool included.
        idle_timeout_s: after which a node without operations stops itself; 0: never.
        session_ttl_s: a session's time to live where its client names none.
        start_timeout_s: for a node to start and answer.
        bind_timeout_s: for a bind, which loads the processor's patterns.
        call_timeout_s: for any other control call.
        drain_grace_s: for a node to finish what it has, before it is killed.
        starts_max: nodes started at once.
        flush_interval_s: between two writes of the sessions' last use.
        sweep_interval_s: between two comparisons of what runs with what is recorded.
        quarantine_s: how long a running node that nobody has recorded is left alone.
        ended_kept_s: how long an ended session is remembered.
    """

    warm_pool_size: int = 2
    nodes_max: int = 900
    idle_timeout_s: float = 900.0
    session_ttl_s: float = 3600.0
    start_timeout_s: float = 30.0
    bind_timeout_s: float = 30.0
    call_timeout_s: float = 5.0
    drain_grace_s: float = 10.0
    starts_max: int = 4
    flush_interval_s: float = 2.0
    sweep_interval_s: float = 5.0
    quarantine_s: float = 60.0
    ended_kept_s: float = 86_400.0
