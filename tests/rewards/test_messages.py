"""What crosses from a reward function's process is data, and exact."""

import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.messages import EXAMPLE_READY, Failure, Ready, Reply, Values, decoded, encoded, framed, received

REPLIES: st.SearchStrategy[Reply] = st.one_of(
    st.lists(st.one_of(st.floats(allow_nan=False), st.text())).map(lambda values: Values(tuple(values))),
    st.text().map(Failure),
    st.builds(Ready, st.lists(st.text()).map(tuple), st.one_of(st.none(), st.frozensets(st.text()))),
)


@given(REPLIES)
def test_a_reply_arrives_as_it_was_sent(reply: Reply) -> None:
    assert decoded(encoded(reply)) == reply


def test_nan_arrives() -> None:
    reply = decoded(encoded(Values((math.nan, math.inf, 5e-324))))
    assert isinstance(reply, Values) and str(reply.values) == "(nan, inf, 5e-324)"


@given(st.binary(max_size=40))
def test_bytes_that_are_no_reply_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # json's and its decoder's, with words of their own
        decoded(payload)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.sampled_from(["values", "problem", "required", "accepted"]), inner)
    ),
)


@given(JSON)
def test_only_replies_are_taken(value: object) -> None:
    try:
        reply = decoded(json.dumps(value).encode())
    except ValueError:
        return
    assert isinstance(value, dict)
    match reply:
        case Values(values):
            assert all(type(each) in (float, str) for each in values)
        case Failure(problem):
            assert isinstance(problem, str)
        case Ready(required, accepted):
            assert all(isinstance(name, str) for name in (*required, *(accepted or ())))


@pytest.mark.parametrize(
    "payload", [pickle.dumps(EXAMPLE_READY), b"[" * 10**6, b'{"values": [' + b"9" * 5000 + b"]}", b'{"values": [1]}']
)
def test_a_pickle_or_a_json_bomb_is_no_reply(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"no reply|Exceeds|codec"):
        decoded(payload)


@given(st.lists(st.binary(max_size=50)), st.integers(1, 9))
def test_messages_are_told_apart_however_they_are_cut(payloads: list[bytes], most: int) -> None:
    stream = bytearray(b"".join(map(framed, payloads)))

    def read(size: int) -> bytes:
        part = bytes(stream[: min(size, most)])
        del stream[: len(part)]
        return part

    assert [received(read) for _ in payloads] == payloads
    with pytest.raises(EOFError):
        received(read)
