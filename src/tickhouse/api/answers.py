"""Answers in the form that the client accepts: JSON, CSV, Arrow or Parquet; and the place where the next page begins."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
import polars as pl
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from tickhouse.api.problems import PROBLEM, Problem, ProblemError
from tickhouse.serving.rows import encode, with_plain_times

__all__ = ["Cursor", "Rows", "accepted", "answer", "documented", "json_rows", "next_cursor", "problems"]

_JSON = "application/json"


def json_rows(frame: pl.DataFrame) -> bytes:
    """Return the rows of a frame as a JSON array; times are integer microseconds, bytes are base64."""
    plain = with_plain_times(frame)
    if any("Binary" in str(kind) for kind in plain.dtypes):
        plain = plain.with_columns(pl.col(pl.Binary).bin.encode("base64"))
        if any("Binary" in str(kind) for kind in plain.dtypes):
            return encode(plain.to_dicts())
    return plain.write_json().encode()


def _csv(frame: pl.DataFrame) -> bytes:
    nested = [name for name, kind in frame.schema.items() if kind.is_nested() or kind == pl.Object]
    plain = with_plain_times(frame).with_columns(pl.col(pl.Binary).bin.encode("base64"))
    texts = [pl.Series(name, [encode(value).decode() for value in plain[name].to_list()], pl.String) for name in nested]
    return plain.with_columns(texts).write_csv().encode()


def _arrow(frame: pl.DataFrame) -> bytes:
    into = io.BytesIO()
    frame.write_ipc_stream(into)
    return into.getvalue()


def _parquet(frame: pl.DataFrame) -> bytes:
    into = io.BytesIO()
    frame.write_parquet(into)
    return into.getvalue()


_FORMS: dict[str, Callable[[pl.DataFrame], bytes]] = {
    "text/csv": _csv,
    "application/vnd.apache.arrow.stream": _arrow,
    "application/vnd.apache.parquet": _parquet,
}


class Rows(BaseModel):
    """A list of rows."""

    rows: list[dict[str, Any]]
    """Keys are column names; times are UTC microseconds; what is missing is null."""
    next: str | None = Field(None, description="Give it as `cursor` for the page that follows; null = this is the last.")


def documented(**example: Any) -> dict[int | str, dict[str, Any]]:
    """Return what a route that answers with rows may answer, for its documentation."""
    forms: dict[str, Any] = {name: {"schema": {"type": "string", "format": "binary"}} for name in _FORMS}
    if example:
        forms[_JSON] = {"example": example}
    return {HTTPStatus.OK: {"content": forms, "description": "Rows."}, **problems()}


def problems(*more: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors that a route may answer with, for its documentation."""
    told = {400: "Not understood", 401: "A token is needed", 404: "Not known", 422: "Not allowed", 429: "Too often"}
    told |= {406: "None of the accepted forms", 503: "Not now"}
    return {status: _problem(told.get(status, HTTPStatus(status).phrase)) for status in (*told, *more)}


def _problem(description: str) -> dict[str, Any]:
    return {"model": Problem, "description": description, "content": {PROBLEM: {"schema": Problem.model_json_schema()}}}


def accepted(request: Request) -> str:
    """Return the form to answer in.

    Raises:
        ProblemError: the client accepts none of them.
    """
    header = request.headers.get("accept", "*/*")
    offers: list[tuple[float, str]] = []
    for part in header.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        offers.append((weight, name))
    for weight, name in sorted(offers, key=lambda offer: -offer[0]):
        if weight <= 0:
            continue
        if name in ("*/*", "", "application/*", _JSON):
            return _JSON
        if name in _FORMS:
            return name
        if name == "text/*":
            return "text/csv"
    raise ProblemError(
        HTTPStatus.NOT_ACCEPTABLE, f"none of {header[:200]!r} can be given; accept {', '.join([_JSON, *_FORMS])}"
    )


def answer(request: Request, frame: pl.DataFrame, following: str | None = None) -> Response:
    """Return rows in the accepted form; the next page's cursor is in the header `X-Next-Cursor` where the form has no place."""
    form = accepted(request)
    if form == _JSON:
        return Response(b'{"rows":' + json_rows(frame) + b',"next":' + encode(following) + b"}", media_type=_JSON)
    headers = {"X-Next-Cursor": following} if following else None
    return Response(_FORMS[form](frame), media_type=form, headers=headers)


class Cursor(msgspec.Struct, array_like=True, frozen=True):
    """Where a page begins: opaque to clients."""

    below: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    """The journal offset up to which the first page saw."""
    after: tuple[int | float | str | None, ...]
    """The place of the row before."""

    @classmethod
    def read(cls, text: str) -> Cursor:
        """Return a cursor that `spell` made.

        Raises:
            ProblemError: it is none.
        """
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(text.encode()), type=cls)
        except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "cursor: give what an answer had as `next`") from error

    def spell(self) -> str:
        """Return it as text."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode()


def next_cursor(frame: pl.DataFrame, columns: Sequence[str], limit: int, below: int) -> str | None:
    """Return the cursor of the page after this one, None where it is the last."""
    if len(frame) < limit:
        return None
    last = with_plain_times(frame.select(columns).tail(1)).row(0)
    return Cursor(below, tuple(-1 if value is None else value for value in last)).spell()
