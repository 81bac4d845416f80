"""An argument that cannot be sent is refused by its name, before anything is sent."""

import asyncio
import datetime
import inspect
import reprlib

import pytest
import tttd_client
from tttd_client import AsyncClient, Client, OnCancel, Retry, Sampling

NOBODY = "unix:/nowhere/tttd"

INT32 = "an integer from 0 to 2147483647"
UINT64 = "an integer from 0 to 18446744073709551615"
STR = "a str of valid Unicode"
INPUT = "text as str, or a sequence of token ids"
IDS = "a sequence of token ids"
SECONDS = "a number of seconds, 0 or more"
TTL = "a number of seconds, or a timedelta, of at most 999,999,999 days"

# Options of complete and stream, and what is said of them.
OPTIONS = [
    ({"temperature": "x"}, TypeError, "temperature is 'x': must be a number"),
    (
        {"temperature": 10**309},
        ValueError,
        f"temperature is {reprlib.repr(10**309)}: must be a number",
    ),
    ({"top_p": [1]}, TypeError, "top_p is [1]: must be a number"),
    ({"max_tokens": 2**40}, ValueError, f"max_tokens is 1099511627776: must be {INT32}"),
    ({"max_tokens": 1.5}, TypeError, f"max_tokens is 1.5: must be {INT32}"),
    ({"seed": -1}, ValueError, f"seed is -1: must be {UINT64}"),
    ({"expected_revision": -1}, ValueError, f"expected_revision is -1: must be {UINT64}"),
    ({"top_logprobs": "2"}, TypeError, f"top_logprobs is '2': must be {INT32}"),
    ({"logit_bias": 5}, TypeError, "logit_bias is 5: must be a mapping of token ids to numbers"),
    ({"logit_bias": {7: "x"}}, TypeError, "logit_bias[7] is 'x': must be a number"),
    ({"logit_bias": {"x": 1}}, TypeError, f"a token id of logit_bias is 'x': must be {INT32}"),
    ({"logit_bias": {None: 1}}, TypeError, f"a token id of logit_bias is None: must be {INT32}"),
    ({"sampling": {"top_k": 1}}, TypeError, "sampling is {'top_k': 1}: must be a Sampling"),
    ({"sampling": Sampling(top_k="x")}, TypeError, f"top_k is 'x': must be {INT32}"),
    ({"stop": 5}, TypeError, "stop is 5: must be a str, or a sequence of them"),
    ({"stop": b"x"}, TypeError, "stop is b'x': must be a str, or a sequence of them"),
    ({"stop": ["x", 5]}, TypeError, f"stop[1] is 5: must be {STR}"),
    ({"stop": "\ud800"}, ValueError, f"stop[0] is '\\ud800': must be {STR}"),
    ({"stop_token_ids": "12"}, TypeError, f"stop_token_ids is '12': must be {IDS}"),
    ({"stop_token_ids": [1, "x"]}, TypeError, f"stop_token_ids[1] is 'x': must be {INT32}"),
    ({"ignore_eos": "maybe"}, TypeError, "ignore_eos is 'maybe': must be True or False"),
    (
        {"on_cancel": "x"},
        TypeError,
        "on_cancel is 'x': must be OnCancel.ROLLBACK or OnCancel.COMMIT_PARTIAL",
    ),
    (
        {"on_cancel": []},
        TypeError,
        "on_cancel is []: must be OnCancel.ROLLBACK or OnCancel.COMMIT_PARTIAL",
    ),
    ({"request_id": 5}, TypeError, f"request_id is 5: must be {STR}"),
    ({"input": 5}, TypeError, f"input is 5: must be {INPUT}"),
    ({"input": b"text"}, TypeError, f"input is b'text': must be {INPUT}"),
    ({"input": [1, "x"]}, TypeError, f"input[1] is 'x': must be {INT32}"),
    ({"input": [2**31]}, ValueError, f"input[0] is 2147483648: must be {INT32}"),
    ({"input": "a\ud800"}, ValueError, f"input is 'a\\ud800': must be {STR}"),
    ({"timeout": "1"}, TypeError, f"timeout is '1': must be {SECONDS}"),
    ({"timeout": -1}, ValueError, f"timeout is -1: must be {SECONDS}"),
    ({"timeout": float("nan")}, ValueError, f"timeout is nan: must be {SECONDS}"),
]

# Of the other calls; those of a session begin with one that is there.
CALLS = [
    (lambda c: c.score(5), TypeError, f"input is 5: must be {INPUT}"),
    (lambda c: c.score("x", top_logprobs="2"), TypeError, f"top_logprobs is '2': must be {INT32}"),
    (lambda c: c.score("x", request_id=5), TypeError, f"request_id is 5: must be {STR}"),
    (lambda c: c.session("s").score([None]), TypeError, f"input[0] is None: must be {INT32}"),
    (lambda c: c.session("s").info(timeout=-1), ValueError, f"timeout is -1: must be {SECONDS}"),
    (lambda c: c.session("s").open(timeout="1"), TypeError, f"timeout is '1': must be {SECONDS}"),
    (lambda c: c.session("s").delete(timeout=-1), ValueError, f"timeout is -1: must be {SECONDS}"),
    (lambda c: c.session("s").fork(5), TypeError, f"new_id is 5: must be {STR}"),
    (lambda c: c.session("s").fork(ttl="x"), TypeError, f"ttl is 'x': must be {TTL}"),
    (lambda c: c.session(5), TypeError, f"name is 5: must be {STR}"),
    (lambda c: c.session("s", ttl="x"), TypeError, f"ttl is 'x': must be {TTL}"),
    (lambda c: c.create_session(5), TypeError, f"session_id is 5: must be {STR}"),
    (lambda c: c.create_session(ttl=1e20), ValueError, f"ttl is 1e+20: must be {TTL}"),
    (lambda c: c.get_session(None), TypeError, f"session_id is None: must be {STR}"),
    (lambda c: c.list_sessions(page_size="x"), TypeError, f"page_size is 'x': must be {INT32}"),
    (lambda c: c.list_sessions(timeout=-1), ValueError, f"timeout is -1: must be {SECONDS}"),
    (lambda c: c.delete_session(5), TypeError, f"session_id is 5: must be {STR}"),
    (lambda c: c.fork_session(5), TypeError, f"session_id is 5: must be {STR}"),
    (lambda c: c.fork_session("s", 0), TypeError, f"new_id is 0: must be {STR}"),
    (
        lambda c: c.fork_session("s", expected_revision=-1),
        ValueError,
        f"expected_revision is -1: must be {UINT64}",
    ),
    (lambda c: c.tokenize(None), TypeError, f"text is None: must be {STR}"),
    (lambda c: c.tokenize("x", at_start=""), TypeError, "at_start is '': must be True or False"),
    (lambda c: c.detokenize("12"), TypeError, f"ids is '12': must be {IDS}"),
    (lambda c: c.detokenize([1, 2.0]), TypeError, f"ids[1] is 2.0: must be {INT32}"),
    (lambda c: c.health(5), TypeError, f"service is 5: must be {STR}"),
    (lambda c: c.server_info(timeout="1"), TypeError, f"timeout is '1': must be {SECONDS}"),
    (lambda c: c.drain(timeout=-1), ValueError, f"timeout is -1: must be {SECONDS}"),
]

# Of what makes no call.
MAKERS = [
    (lambda make: make(5), TypeError, "target is 5: must be a str such as '127.0.0.1:50051'"),
    (lambda make: make(NOBODY, timeout="1"), TypeError, f"timeout is '1': must be {SECONDS}"),
    (lambda make: make(NOBODY, timeout=-1), ValueError, f"timeout is -1: must be {SECONDS}"),
    (lambda make: make(NOBODY, retry=3), TypeError, "retry is 3: must be a Retry"),
    (lambda make: Retry(attempts="x"), TypeError, "attempts is 'x': must be a number, 0 or more"),
    (lambda make: Retry(max_seconds=-1), ValueError, f"max_seconds is -1: must be {SECONDS}"),
]


class Sent(Exception):
    """A call got as far as its channel."""


class FakeChannel:
    """Sends nothing."""

    def unary_unary(self, path, **serializers):
        return self._send

    def unary_stream(self, path, **serializers):
        return self._send

    def _send(self, request, timeout):
        raise Sent

    def close(self):
        pass


class AsyncFakeChannel(FakeChannel):
    async def close(self):
        pass


def sync_call(call, **options):
    with Client(**(options or {"channel": FakeChannel()})) as client:
        result = call(client)
        if inspect.isgenerator(result):
            next(result)


def async_call(call, **options):
    async def main():
        async with AsyncClient(**(options or {"channel": AsyncFakeChannel()})) as client:
            result = call(client)
            if inspect.isasyncgen(result):
                await result.__anext__()
            elif inspect.isawaitable(result):
                await result

    asyncio.run(main())


def refusal_of(run):
    with pytest.raises((TypeError, ValueError)) as raised:
        run()
    return raised.value


def assert_is(error, kind, text):
    assert (type(error), str(error)) == (kind, text)


@pytest.mark.parametrize("make", [sync_call, async_call])
@pytest.mark.parametrize("of", [lambda c: c, lambda c: c.session("s")], ids=["client", "session"])
@pytest.mark.parametrize("name", ["complete", "stream"])
@pytest.mark.parametrize(("options", "kind", "text"), OPTIONS)
def test_option_that_cannot_be_sent_is_named(make, of, name, options, kind, text):
    arguments = {"input": "x", **options}
    error = refusal_of(lambda: make(lambda client: getattr(of(client), name)(**arguments)))
    assert_is(error, kind, text)


@pytest.mark.parametrize("make", [sync_call, async_call])
@pytest.mark.parametrize(("call", "kind", "text"), CALLS)
def test_argument_that_cannot_be_sent_is_named(make, call, kind, text):
    assert_is(refusal_of(lambda: make(call)), kind, text)


@pytest.mark.parametrize("make", [Client, AsyncClient])
@pytest.mark.parametrize(("call", "kind", "text"), MAKERS)
def test_argument_of_what_makes_no_call_is_named(make, call, kind, text):
    assert_is(refusal_of(lambda: call(make)), kind, text)


def test_long_value_is_cut_short():
    error = refusal_of(lambda: sync_call(lambda client: client.complete("x", seed="9" * 10**6)))
    assert str(error).startswith("seed is '999") and len(str(error)) < 200


def test_error_of_the_caller_s_own_iterator_is_left_alone():
    def ids():
        yield 1
        raise ValueError("the caller's own")

    error = refusal_of(lambda: sync_call(lambda client: client.complete(ids())))
    assert str(error) == "the caller's own"


@pytest.mark.parametrize("make", [sync_call, async_call])
@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.complete("x", temperature=1, seed=2**64 - 1, logit_bias=[(7, True)]),
        lambda c: c.complete((i for i in range(3)), stop=("a", "b"), stop_token_ids=range(2)),
        lambda c: c.complete("x", seed=None, on_cancel=OnCancel.COMMIT_PARTIAL, request_id=None),
        lambda c: c.complete("x", max_tokens=-1),  # The server says what is wrong with it.
        lambda c: c.create_session(ttl=datetime.timedelta(hours=1)),
        lambda c: c.create_session("s", ttl=0.5),
        lambda c: c.server_info(timeout=0),
    ],
)
def test_argument_that_can_be_sent_is(make, call):
    with pytest.raises(Sent):
        make(call)


@pytest.mark.parametrize("make", [sync_call, async_call])
@pytest.mark.parametrize("timeout", [1e12, 1e300])
def test_timeout_of_ages_does_not_end_a_call(make, timeout):
    with pytest.raises(tttd_client.Unavailable):
        make(lambda client: client.server_info(timeout=timeout), target=NOBODY)
