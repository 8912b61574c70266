"""The OpenAPI document is true: generated requests, valid and not, get the documented answers and never a 5xx."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.live import Served

EXAMPLES = 12


@pytest.fixture
def schema(served: Served) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import schemathesis

        yield schemathesis.openapi.from_url(f"{served.url}/openapi.json")


def test_every_route_keeps_to_its_description(schema: Any, served: Served) -> None:
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [
        not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
        response_headers_conformance,
    ]  # fmt: skip
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @seed(1)
        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def try_one(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(checks=checks)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try_one()
    assert tried > 12 * 10
    assert served.get("/v1/health").status == 200


def test_the_documentation_comes_from_here(served: Served) -> None:
    page = served.get("/docs").body.decode()
    assert "http://" not in page.replace(served.url, "")
    assert "https://" not in page
    assert served.get("/docs-assets/swagger-ui-bundle.js").status == 200
    assert served.get("/").status == 200  # the browser is sent on


def test_every_route_of_v1_has_a_tag_a_summary_and_says_how_it_fails(served: Served) -> None:
    document = served.get("/openapi.json").json
    routes = {path: about for path, about in document["paths"].items() if path.startswith("/v1")}
    assert len(routes) >= 12
    for path, methods in routes.items():
        for about in methods.values():
            assert about["tags"], path
            assert about["summary"], path
            assert "application/problem+json" in about["responses"]["422"]["content"], path
