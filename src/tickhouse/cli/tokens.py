"""Commands over the tokens of the API: `token add`, `list`, `remove`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tickhouse.cli.options import DEFAULT_HOUSE, AsJson, HouseDir, reading
from tickhouse.cli.support import print_json

if TYPE_CHECKING:
    from tickhouse.api.tokens import Tokens

__all__ = ["add", "remove", "show"]


def add(name: Annotated[str, typer.Argument(help="Who or what will use it.")], house: HouseDir = DEFAULT_HOUSE) -> None:
    """Make a token and print it; it cannot be shown again."""
    reading(house)
    print(_tokens(house).add(name))


def show(house: HouseDir = DEFAULT_HOUSE, as_json: AsJson = False) -> None:
    """List the tokens by name; the tokens themselves are not kept."""
    found = _tokens(house).all()
    if as_json:
        print_json([token._asdict() for token in found])
    else:
        for token in found:
            print(f"{time.strftime('%Y-%m-%d', time.gmtime(token.made_at))}  {token.name}")


def remove(name: str, house: HouseDir = DEFAULT_HOUSE) -> None:
    """Forget a token: whoever uses it is refused from then on."""
    _tokens(house).remove(name)


def _tokens(path: Path) -> Tokens:
    from tickhouse.api.tokens import Tokens

    return Tokens(path)
