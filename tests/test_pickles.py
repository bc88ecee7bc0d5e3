"""Pickles as data: against Python's own unpickler, which runs whatever it is told to."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.pickles import read_pickle

NUMBERS = st.integers() | st.floats(allow_nan=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | st.binary(min_size=1),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=6) | st.integers(-(2**64) + 1, 2**64 - 1), inner, max_size=4)
    ),
    max_leaves=12,
)


def read(raw: bytes) -> Any:
    return read_pickle(raw, {"_codecs.encode", "collections.OrderedDict"}, 10_000)


# 300 plain values by each of the protocols 1 to 4; in protocol 0 text is written in another way.
@given(PLAIN, st.integers(1, 4))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_plain_values_are_those_that_were_pickled(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


class Wary(pickle._Unpickler):
    """Python's own, but for what it would run; the one in C fills the memory for a place far away in it."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


def outcome(read: Callable[[bytes], Any], raw: bytes) -> str:
    """What is read, as text; empty if it is refused."""
    try:
        return repr(read(raw))
    except (ValueError, TypeError, ArithmeticError, LookupError, EOFError, AttributeError, pickle.UnpicklingError):
        return ""


# 300 pickles of plain values, with up to three bytes in the first forty changed.
@given(PLAIN.map(lambda value: pickle.dumps(value, 4)), st.integers(0, 40), st.binary(max_size=3))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_damaged_pickle_is_refused_or_read_as_python_reads_it(raw: bytes, place: int, edit: bytes) -> None:
    damaged = raw[:place] + edit + raw[place + len(edit) :]
    ours = outcome(lambda raw: read_pickle(raw, (), 10_000), damaged)
    if ours:  # what is refused could fill the memory by Python's own
        assert outcome(lambda raw: Wary(io.BytesIO(raw)).load(), damaged) in ("", ours)


def test_what_is_asked_for_is_written_down() -> None:
    assert read(pickle.dumps(OrderedDict(a=1), 2)) == {"a": 1}
    request = read_pickle(pickle.dumps(complex(1, 2), 2), {"__builtin__.complex"}, 100)
    assert (request.name, request.args, request.state) == ("__builtin__.complex", (1.0, 2.0), None)


def test_a_key_is_text_or_a_whole_number_or_a_few_of_them() -> None:
    value = {("cifar10", 777): 1, (1, 2, 3, "x"): 2, 2**64 - 1: 3, (): 4}
    assert read(pickle.dumps(value, 4)) == value


@pytest.mark.parametrize(
    "key", [0.5, None, True, b"a", (1, None), (0.5,), ((1,),), (1, 2, 3, 4, 5), 2**64, -(2**64), (2**64,)]
)
def test_no_other_key_is_taken(key: Any) -> None:
    with pytest.raises(ValueError, match="neither text nor a whole number"):
        read(pickle.dumps({key: 1}, 4))


def test_the_number_of_instructions_is_a_limit() -> None:
    raw = pickle.dumps([1] * 200, 2)
    assert len(read_pickle(raw, (), 300)) == 200
    with pytest.raises(ValueError, match="more than 100 instructions"):
        read_pickle(raw, (), 100)
