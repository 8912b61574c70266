"""`/metrics` for Prometheus: what the processes of the house have counted, and how this one stands."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from tickhouse.api.context import Context, context
from tickhouse.telemetry import CONTENT_TYPE, exposition

__all__ = ["router"]

router = APIRouter()


@router.get("/metrics", tags=["House"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(here: Annotated[Context, Depends(context)]) -> Response:
    """Metrics in Prometheus' text form."""
    state, running = here.follower.state, here.writer_runs()
    counts = here.follower.counts
    lag = (here.now() - state.clock) / 1e6 if running and state.clock is not None else None
    gauges: dict[str, tuple[str, float | None]] = {
        "tickhouse_subscribers": ("Live subscriptions.", here.hub.subscribers),
        "tickhouse_running": ("1 while some process writes the house.", int(running)),
        "tickhouse_journal_position": ("Journal offset that the server has come to.", state.position),
        "tickhouse_journal_lag_seconds": ("How far the server's clock is behind the present; a heartbeat is 0.25 s.", lag),
        "tickhouse_house_received": ("Trades and refused payloads since the house began.", counts.received),
        "tickhouse_house_accepted": ("Of these, trades that count.", counts.accepted),
        "tickhouse_house_duplicate": ("Of these, trades whose id was seen before.", counts.duplicate),
        "tickhouse_house_rejected": ("Of these, refused.", sum(counts.rejected.values())),
    }
    return Response(exposition(here.house.path, gauges), media_type=CONTENT_TYPE)
