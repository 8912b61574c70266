"""What scanners are made of gives what Python's own text and numbers give, at every place in memory."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tickhouse.scanning import PADDING, Texts, after, decimal, digits, find, literals, text_code, text_end

_ENDS = ('"', ",", "}", "\n", "x", "-", " ")


class Memory:
    """A text in a buffer, some bytes after its beginning."""

    def __init__(self, text: str | bytes, at: int = 0) -> None:
        raw = text.encode("latin-1") if isinstance(text, str) else text
        self._kept = np.frombuffer(b"9" * at + raw + bytes(PADDING), np.uint8)
        self.address, self.begin, self.end = int(self._kept.ctypes.data), at, at + len(raw)


@pytest.mark.parametrize("at", range(9))
def test_digits_are_the_number_and_where_it_ends(at):
    rng = random.Random(at)
    for length in range(20):
        for end in _ENDS:
            number = "".join(rng.choices("0123456789", k=length))
            memory = Memory(number + end, at)
            value, stop = digits(memory.address, memory.begin)
            if 0 < length <= 18 and (length == 1 or number[0] != "0"):
                assert (value, stop - memory.begin) == (int(number), length)
            else:
                assert stop == -1


def test_decimals_are_those_of_python():
    rng = random.Random(1)
    for _ in range(20_000):
        whole, fraction = (rng.choices("0123456789", k=rng.randrange(11)) for _ in range(2))
        spelled = rng.choice(("", "-")) + "".join(whole) + rng.choice((".", "")) + "".join(fraction)
        memory = Memory(spelled + rng.choice(_ENDS[:4]), rng.randrange(9))
        value, stop = decimal(memory.address, memory.begin)
        if stop >= 0:
            assert stop - memory.begin == len(spelled)
            assert value == float(spelled)
            assert int(spelled.lstrip("-").replace(".", "")) < 2**53
        else:
            plain = spelled.lstrip("-")
            whole_part, point, rest = plain.partition(".")
            odd = not whole_part or (point and not rest) or (whole_part[0] == "0" and len(whole_part) > 1)
            assert odd or len(plain.replace(".", "")) > 15 or float(spelled) == 0


@pytest.mark.parametrize("odd", ['"', "\\", "\n", "\x00", "\x1f", "\x7f", "\x80", "\xff", " ", "!", "]"])
def test_plain_text_ends_at_its_quote_and_nothing_else_is_plain(odd):
    for length in range(20):
        for at in range(9):
            memory = Memory("a~" * 10 + 'b"', at)
            assert text_end(memory.address, memory.begin) == memory.end - 1
            memory = Memory("~Z" * (length // 2) + "." * (length % 2) + odd + 'tail"', at)
            expected = at + length if odd == '"' else -1 if ord(odd) < 32 or odd == "\\" or ord(odd) >= 128 else memory.end - 1
            assert text_end(memory.address, memory.begin) == expected


def test_a_byte_is_found_but_not_beyond_its_line():
    for length in range(20):
        for letter in (44, 34, 200):
            memory = Memory(b"+" * length + bytes([letter]) + b"\n", length % 9)
            assert find(memory.address, memory.begin, letter) == memory.begin + length
            assert find(memory.address, memory.begin, 33) == memory.end - 1


def test_a_literal_ends_after_its_last_byte():
    texts = [b'{"s":"', b',"price":', b"", b"12345678", b"\x0atrade\x00" + bytes(9)]
    known = literals(texts)
    for which, text in enumerate(texts):
        memory = Memory(text + b"more", which)
        assert after(memory.address, memory.begin, which, *known) == memory.begin + len(text)
        for wrong in range(len(text)):
            changed = bytearray(text)
            changed[wrong] ^= 1
            memory = Memory(bytes(changed), which)
            assert after(memory.address, memory.begin, which, *known) == -1


def test_texts_are_numbered_in_the_order_they_came_and_alike_only_where_equal():
    rng = random.Random(3)
    texts = Texts(3_000, 1 << 16)
    known: dict[bytes, int] = {}
    for _ in range(20_000):
        text = bytes(rng.choices(b"AB\x00", k=rng.randrange(1, 18)))
        memory = Memory(text, rng.randrange(9))
        code = text_code(memory.address, memory.begin, memory.end, *texts.arrays)
        if text in known or code >= 0:
            assert code == known.setdefault(text, len(known))
    assert len(texts) == len(known) <= 3_000
    assert [texts[number] for number in range(len(texts))] == list(known)


def test_a_full_table_takes_nothing_and_keeps_what_it_has():
    for texts in (Texts(2, 1 << 10), Texts(100, 32)):
        codes = []
        for text in (b"a" * 16, b"b" * 9, b"c" * 8, b"a" * 16):
            memory = Memory(text)
            codes.append(text_code(memory.address, memory.begin, memory.end, *texts.arrays))
        assert codes == [0, 1, -1, 0]
