"""How a source gives back what it cannot read: the bytes as they came, with a reason to count by.

Every source's `parse` uses it, so that a rejected payload is kept in one way whoever delivered it.
"""

from __future__ import annotations

import hashlib

from tickhouse.model import MAX_PAYLOAD_BYTES, Rejected

__all__ = ["reject"]


def reject(source: str, reason: str, payload: bytes, received_at: int) -> Rejected:
    """Return the record of a payload that became no trade.

    Args:
        source: As in the `source` column.
        reason: A short stable word: `malformed`, `undocumented`, `missing_price`, `type_price`, ...
        payload: All bytes as received; beyond 1 MiB the first MiB, the length and the sha256 are kept.
        received_at: UTC microseconds.
    """
    whole = len(payload) <= MAX_PAYLOAD_BYTES
    return Rejected(
        source=source,
        received_at=received_at,
        reason=reason,
        payload=payload if whole else payload[:MAX_PAYLOAD_BYTES],
        length=len(payload),
        sha256=None if whole else hashlib.sha256(payload).hexdigest(),
    )
