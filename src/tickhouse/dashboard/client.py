"""What the pages ask the API themselves: lists for their controls, and tables that do not move."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import streamlit as st

from tickhouse.errors import ConfigError, NotConnectedError

__all__ = ["ARROW", "CSV", "PARQUET", "Client", "here"]

ARROW, CSV, PARQUET = "application/vnd.apache.arrow.stream", "text/csv", "application/vnd.apache.parquet"
_JSON = "application/json"
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Client:
    """Asks one API, as one reader; from any thread.

    All its methods raise ConfigError where the house refuses (the text is its own) and NotConnectedError where nobody answers.
    """

    api: str
    token: str

    def ask(self, path: str, **parameters: Any) -> Any:
        """Return the answer of `GET /v1/<path>`; parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return json.loads(self._fetch(f"{path}?{urlencode(given)}", None, _JSON))

    def rows(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """Return the rows of a list, its first page."""
        found: list[dict[str, Any]] = self.ask(path, **parameters)["rows"]
        return found

    def select(self, sql: str, accept: str = _JSON, **options: Any) -> bytes:
        """Return the answer to one SELECT in the form asked for; options: `limit`, `as_of`."""
        body = {"sql": sql} | {name: value for name, value in options.items() if value is not None}
        return self._fetch("sql", json.dumps(body).encode(), accept)

    def _fetch(self, path: str, body: bytes | None, accept: str) -> bytes:
        headers = {"accept": accept, "content-type": _JSON}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        request = Request(f"{self.api}/v1/{path}", body, headers)  # noqa: S310  the operator's own address
        try:
            with urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310  likewise
                return answer.read()  # type: ignore[no-any-return]  # typeshed: Any
        except HTTPError as error:
            raise ConfigError(_told(error)) from error
        except (URLError, TimeoutError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise NotConnectedError(f"the house's API at {self.api} does not answer ({reason})") from error


def here() -> Client:
    """Return the client of the page that is being painted."""
    return Client(str(st.secrets["api"]).rstrip("/"), str(st.secrets["token"]))


def _told(error: HTTPError) -> str:
    try:
        told = json.loads(error.read())
        return str(told.get("detail") or told["title"])
    except (ValueError, KeyError, AttributeError):
        return f"the house answered {error.code} {error.reason}"
