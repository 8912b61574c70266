"""Errors in one shape: RFC 9457 problem details, for every route and for the stream."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tickhouse.errors import ConfigError, DataError, TickhouseError, TransientError
from tickhouse.serving.rows import encode

__all__ = [
    "PROBLEM",
    "BinanceError",
    "BinanceProblem",
    "Problem",
    "ProblemError",
    "add_handlers",
    "body_of",
    "problem_of",
    "respond",
]

PROBLEM = "application/problem+json"
_SHOWN = 300
_BINANCE_CODES = {401: -2015, 422: -1100, 429: -1003}


class Problem(BaseModel):
    """An error, as RFC 9457 spells it."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    """What kind; `about:blank` = what `status` says."""
    title: str
    status: int
    detail: str
    """What is wrong with this request, and what would be right."""


class BinanceProblem(BaseModel):
    """An error, as Binance spells it."""

    code: int
    """Binance's, e.g. -1121."""
    msg: str


class ProblemError(Exception):
    """Raised where a request cannot be answered.

    Args:
        status: HTTP's.
        detail: For people.
        headers: To send with it.
        more: Further members of the problem.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.more = more


class BinanceError(Exception):
    """An error as Binance tells of it, for the routes that speak its language.

    Args:
        code: Binance's, e.g. -1121.
        message: Binance's words for it.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def body(self) -> dict[str, Any]:
        """The answer."""
        return {"code": self.code, "msg": self.message}


def problem_of(error: Exception) -> ProblemError:
    """Return what to tell a client of an error that the house raised."""
    if isinstance(error, ProblemError):
        return error
    text = str(error)
    if isinstance(error, ConfigError | DataError):
        unknown = text.startswith(("unknown symbol", "no house")) or " is not known at venue " in text
        status = HTTPStatus.NOT_FOUND if unknown else HTTPStatus.UNPROCESSABLE_ENTITY
        return ProblemError(status, text)
    if isinstance(error, TransientError):
        return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, text, {"Retry-After": str(round(error.retry_after_s or 1))})
    if isinstance(error, TickhouseError):
        return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, text)
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log says why")


def body_of(error: ProblemError) -> dict[str, Any]:
    """Return the members of a problem."""
    status = HTTPStatus(error.status)
    return {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": error.detail, **error.more}


def respond(path: str, error: ProblemError) -> Response:
    """Return the answer to a request for `path`: a problem, or what programs made for Binance expect."""
    if not path.startswith("/api/v3/"):
        return Response(encode(body_of(error)), error.status, error.headers, PROBLEM)
    status = HTTPStatus.BAD_REQUEST if error.status == HTTPStatus.UNPROCESSABLE_ENTITY else error.status
    told = BinanceError(_BINANCE_CODES.get(error.status, -1000), error.detail)
    return Response(encode(told.body), status, error.headers, "application/json")


def add_handlers(app: FastAPI) -> None:
    """Have the application answer every error so."""

    async def known(request: Request, error: Exception) -> Response:
        return respond(request.url.path, problem_of(error))

    async def as_binance(_request: Request, error: Exception) -> Response:
        assert isinstance(error, BinanceError)
        return Response(encode(error.body), HTTPStatus.BAD_REQUEST, None, "application/json")

    async def by_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return respond(request.url.path, ProblemError(error.status_code, str(error.detail), dict(error.headers or {})))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = [
            {"where": ".".join(str(part) for part in each["loc"]), "what": each["msg"], "given": _short(each.get("input"))}
            for each in error.errors()
        ]
        told = "; ".join(f"{each['where']}: {each['what']}" for each in found)
        return respond(request.url.path, ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, told, errors=found))

    app.add_exception_handler(BinanceError, as_binance)
    app.add_exception_handler(ProblemError, known)
    app.add_exception_handler(TickhouseError, known)
    app.add_exception_handler(HTTPException, by_http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, known)  # the server logs it with its trace


def _short(given: Any) -> Any:
    text = given if isinstance(given, str) else repr(given)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
