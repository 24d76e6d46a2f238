"""Whether the clocks that an installation goes by agree."""

from __future__ import annotations

import time

from kato_gateway.doctor.findings import Finding, fail, ok, warn

_WARN_S = 2.0
_FAIL_S = 60.0
_ADVICE = "set both machines' time by NTP"


def compared(whose: str, now_s: float) -> Finding:
    """Compare another's clock with this machine's.

    Args:
        now_s: what it says now, in seconds since the epoch.
    """
    skew_s = now_s - time.time()
    message = f"{whose} is {abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} this machine"
    if abs(skew_s) > _FAIL_S:
        return fail("clock", message, _ADVICE)
    return warn("clock", message, _ADVICE) if abs(skew_s) > _WARN_S else ok("clock", message)


def against_records(newest_s: float) -> Finding:
    """Compare this machine's clock with the newest change on record, in seconds since the epoch."""
    ahead_s = newest_s - time.time()
    if ahead_s > _FAIL_S:
        message = f"this machine is {ahead_s:.0f} s behind its newest record: its clock was set back, or is wrong"
        return warn("clock", message, "see to its time (NTP); sessions end later than they should")
    return ok("clock", "this machine is not behind what is on record")
