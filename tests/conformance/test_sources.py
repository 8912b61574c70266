"""What every source in the registry keeps to; a new entry point is tested without a new test."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tickhouse import plugins
from tickhouse.errors import ConfigError
from tickhouse.model import MAX_MESSAGE_ROWS, Event
from tickhouse.settings import explained
from tickhouse.sources.base import Parsed

NAMES = sorted(plugins.names(plugins.SOURCES))
CONTRACT = {"parse", "recognises", "stream", "check"}


def build(name):
    return plugins.build(plugins.SOURCES, name, {})


def settings_of(name):
    hints = inspect.get_annotations(plugins.load(plugins.SOURCES, name).__init__, eval_str=True)
    return next((kind for kind in hints.values() if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def recorded(name, shared):
    """Payloads as the provider sent them."""
    if name == "binance":
        with gzip.open(shared / "fixtures" / "binance" / "ws_spot_btcusdt_20240808.gz", "rb") as lines:
            return [line.split(b" ", 1)[1].rstrip(b"\n") for line in lines][:5000]
    if name == "synthetic":
        settings = {"malformed": 0.02, "duplicates": 0.02, "gaps": 0.02, "late": 0.02}
        return [frame.payload for frame in plugins.build(plugins.SOURCES, name, settings).frames(5000)]
    return pytest.fail(f"the source {name!r} has no recorded payloads here: add some")


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_the_built_in_sources_enter_by_the_public_door():
    assert {"binance", "synthetic"} <= set(NAMES)


def test_it_is_built_from_nothing_and_is_called_as_registered(name):
    source = build(name)
    assert source.name == name
    assert all(callable(getattr(source, method)) for method in CONTRACT)
    assert inspect.isasyncgenfunction(type(source).stream)
    assert inspect.iscoroutinefunction(type(source).check)


def test_an_unknown_option_is_an_error_that_names_it(name):
    with pytest.raises(ConfigError, match="no_such_option"):
        plugins.build(plugins.SOURCES, name, {"no_such_option": 1})


def test_its_settings_are_frozen_and_every_one_is_explained(name):
    kind = settings_of(name)
    assert kind is not None
    assert kind.model_config["frozen"]
    assert kind.model_config["extra"] == "forbid"
    told = explained(kind)
    for field in kind.model_fields:
        assert told.get(field), f"{field} has no docstring"
    with pytest.raises(ValidationError):
        setattr(kind(), next(iter(kind.model_fields)), None)


def test_recorded_payloads_give_trades_of_the_contracts_form(name, shared):
    source = build(name)
    trades = 0
    for payload in recorded(name, shared):
        parsed = source.parse(payload, 1_700_000_000_000_000)
        assert isinstance(parsed, Parsed)
        assert len(parsed.trades) + len(parsed.rejected) <= MAX_MESSAGE_ROWS
        for trade in parsed.trades:
            trades += 1
            assert trade.feed.source == name
            assert trade.feed.symbol == trade.feed.symbol.upper() != ""
            assert (trade.trade_id is None) == (trade.feed.identity == "none")
            assert type(trade.price) is type(trade.size) is float
            assert msgspec.json.encode(trade)
        for rejected in parsed.rejected:
            assert rejected.source == name
            assert rejected.reason
            assert rejected.received_at == 1_700_000_000_000_000
    assert trades > 100


def test_parsing_is_pure(name, shared):
    payloads = recorded(name, shared)[:1000]
    once = build(name)
    forwards = [once.parse(payload, 7) for payload in payloads]
    assert [build(name).parse(payload, 7) for payload in payloads[:20]] == forwards[:20]
    assert [once.parse(payload, 7) for payload in reversed(payloads)] == forwards[::-1]


def test_it_recognises_its_own_payloads_and_no_one_elses(name, shared):
    source = build(name)
    own = [payload for payload in recorded(name, shared)[:500] if source.parse(payload, 0).trades]
    assert all(source.recognises(payload) for payload in own)
    for other in NAMES:
        if other != name:
            assert not any(source.recognises(payload) for payload in recorded(other, shared)[:500])


@pytest.mark.parametrize("registered", NAMES)
@given(payload=st.binary(max_size=120))
def test_no_bytes_make_it_raise_or_vanish(registered, payload):
    source = build(registered)
    parsed = source.parse(payload, 0)
    assert len(parsed.trades) + len(parsed.rejected) + parsed.ignored >= 1
    assert source.recognises(payload) in {True, False}


def test_every_part_of_a_cut_payload_is_counted(name, shared):
    source = build(name)
    payload = next(payload for payload in recorded(name, shared) if source.parse(payload, 0).trades)
    for end in range(len(payload)):
        parsed = source.parse(payload[:end], 0)
        assert [each.payload for each in parsed.rejected] == [payload[:end]]


def test_nothing_is_opened_before_the_stream_is_read(name):
    async def scenario():
        await build(name).stream().aclose()
        return len(asyncio.all_tasks())

    assert asyncio.run(scenario()) == 1


def test_the_first_thing_a_made_up_stream_says_is_that_it_is_connected():
    async def scenario():
        stream = build("synthetic").stream()
        first = await anext(stream)
        await stream.aclose()
        return first

    first = asyncio.run(scenario())
    assert isinstance(first, Event)
    assert (first.event, first.source) == ("connected", "synthetic")


def test_what_it_parses_can_be_sent_to_another_process(name, shared):
    source = build(name)
    for payload in recorded(name, shared)[:50]:
        parsed = source.parse(payload, 0)
        assert pickle.loads(pickle.dumps(parsed)) == parsed
