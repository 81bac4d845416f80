"""What failed calls raise, and which are made again."""

import asyncio
import gc
import socket
import threading
import time
import weakref
from concurrent import futures

import grpc
import pytest
import tttd_client
from google.rpc import error_details_pb2, status_pb2
from tttd_client import AsyncClient, Client, Retry
from tttd_client._errors import from_rpc_error
from tttd_client._retry import Attempts

PROMPT = "It was a cold evening in November when"
ENDLESS = {"max_tokens": 1000000, "ignore_eos": True}
NO_TOKENIZER = "--model=tests/golden/models/linear-mamba"


class WatchedRetry(Retry):
    """Calls `on_refusal` once for each call that was refused."""

    def __init__(self, on_refusal):
        super().__init__(attempts=1000, base_seconds=0.01, max_seconds=0.05)
        object.__setattr__(self, "_on_refusal", on_refusal)

    def delay(self, attempt, error):
        if attempt == 1 and error.was_refused:
            self._on_refusal()
        return super().delay(attempt, error)


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


def test_wrong_field_is_named(client):
    with pytest.raises(tttd_client.InvalidRequest) as raised:
        client.complete(PROMPT, temperature=-1.0)
    error = raised.value
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.reason, error.field) == ("INVALID_FIELD", "sampling.temperature")
    assert not error.was_refused
    assert "sampling.temperature" in str(error) and "INVALID_FIELD" in str(error)


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("", "has no port"),
        ("localhost", "has no port"),
        ("[::1]", "has no port"),
        ("::1:50051", "has an IPv6 address"),
        (":50051", "has no host"),
        ("localhost:", "has no port of"),
        ("localhost:http", "has no port of"),
        ("127.0.0.1:99999", "has no port of"),
        ("http://127.0.0.1:50051", "begins like a web address"),
    ],
)
def test_target_that_is_no_address_is_a_value_error(target, problem):
    for make in (Client, AsyncClient):
        with pytest.raises(ValueError, match=problem) as raised:
            make(target)
        assert repr(target) in str(raised.value)


@pytest.mark.parametrize("target", ["[::1]:50051", "unix:/run/tttd", "dns:///tttd:50051"])
def test_target_of_every_kind_is_taken(target):
    Client(target).close()


def test_http_port_is_hinted_at(start_daemon):
    daemon = start_daemon("--http_listen=127.0.0.1:0")
    with Client(daemon.http_address, timeout=30) as client:
        with pytest.raises(tttd_client.Unavailable, match="is this the HTTP port"):
            client.health()


def test_session_that_is_not_there(client):
    with pytest.raises(tttd_client.SessionNotFound) as raised:
        client.session("nowhere").complete("x")
    assert raised.value.reason == "SESSION_NOT_FOUND"
    with pytest.raises(tttd_client.SessionNotFound):
        client.session("nowhere").stream("x")


def test_session_that_is_there_already(client):
    with client.session("there", create=True) as session:
        with pytest.raises(tttd_client.SessionExists):
            client.create_session("there")
        session.delete()


def test_session_in_use_is_busy(client):
    with client.session() as session:
        with session.stream(PROMPT, **ENDLESS):
            other = client.session(session.id)
            with pytest.raises(tttd_client.SessionBusy) as raised:
                other.complete("x")
            assert raised.value.reason == "SESSION_BUSY"
            assert raised.value.was_refused


def test_retry_waits_until_the_session_is_free(address):
    refused = threading.Event()
    with Client(address, timeout=60, retry=WatchedRetry(refused.set)) as client:
        with client.session() as session, futures.ThreadPoolExecutor() as threads:
            with session.stream(PROMPT, **ENDLESS):
                other = client.session(session.id)
                turn = threads.submit(other.complete, "x", max_tokens=1)
                assert refused.wait(60)
            assert turn.result().revision == 1


def test_revision_that_is_not_expected(client):
    with client.session() as session:
        session.complete("x", max_tokens=1, expected_revision=0)
        with pytest.raises(tttd_client.RevisionMismatch) as raised:
            session.complete("y", max_tokens=1, expected_revision=0)
        assert session.info().revision == 1


def test_deadline_is_a_timeout_error_and_rolls_back(client):
    with client.session() as session:
        session.complete(PROMPT, max_tokens=1)
        with pytest.raises(TimeoutError) as raised:
            session.complete(" and", timeout=0.2, **ENDLESS)
        assert isinstance(raised.value, tttd_client.DeadlineExceeded)
        with pytest.raises(tttd_client.DeadlineExceeded):
            for _ in session.stream(" and", timeout=0.2, **ENDLESS):
                pass
        # Not refused as busy, although the turn may just be ending.
        assert session.complete(max_tokens=1).revision == 2


def test_dropped_stream_is_gone_at_once(address):
    refusals = []

    def on_refusal():
        refusals.append(1)
        holder.close()

    gc.disable()
    try:
        with Client(address, timeout=60, retry=WatchedRetry(on_refusal)) as client:
            with client.session() as session:
                holder = client.session(session.id).stream(PROMPT, **ENDLESS)
                stream = session.stream(PROMPT, **ENDLESS)
                assert refusals == [1]
                next(stream)
                reference = weakref.ref(stream)
                del stream
                assert reference() is None
    finally:
        gc.enable()


def test_timeout_of_the_client_is_that_of_its_calls(address):
    with Client(address, timeout=0.2) as client:
        with pytest.raises(tttd_client.DeadlineExceeded):
            client.complete(PROMPT, **ENDLESS)
        assert client.complete(PROMPT, max_tokens=1, timeout=60)


def test_full_queue_is_overload_with_a_hint(start_daemon):
    daemon = start_daemon("--max_batch_rows=1", "--max_queue=0")
    with Client(daemon.address) as client:
        with client.stream(PROMPT, **ENDLESS):
            with pytest.raises(tttd_client.Overloaded) as raised:
                client.complete("x")
            error = raised.value
            assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error.reason == "QUEUE_FULL"
            assert error.retry_after > 0
            assert error.was_refused
            with pytest.raises(tttd_client.Overloaded):
                client.stream("x")


def test_refused_call_is_made_again_after_the_hint(start_daemon):
    daemon = start_daemon("--max_batch_rows=1", "--max_queue=0")
    refused = threading.Semaphore(0)
    with Client(daemon.address, timeout=60, retry=WatchedRetry(refused.release)) as client:
        with futures.ThreadPoolExecutor() as threads:
            with client.stream(PROMPT, **ENDLESS):
                turns = [
                    threads.submit(client.complete, "x", max_tokens=1),
                    threads.submit(lambda: client.stream("x", max_tokens=1).result()),
                ]
                assert refused.acquire(timeout=60)
                assert refused.acquire(timeout=60)
            assert [len(turn.result().token_ids) for turn in turns] == [1, 1]


def test_refused_async_call_is_made_again_after_the_hint(start_daemon):
    daemon = start_daemon("--max_batch_rows=1", "--max_queue=0")

    async def main():
        refused = asyncio.Semaphore(0)
        retry = WatchedRetry(refused.release)
        async with AsyncClient(daemon.address, timeout=60, retry=retry) as client:
            async with client.stream(PROMPT, **ENDLESS):
                calls = asyncio.gather(
                    client.complete("x", max_tokens=1), client.stream("x", max_tokens=1).result()
                )
                await asyncio.wait_for(refused.acquire(), 60)
                await asyncio.wait_for(refused.acquire(), 60)
            assert [len(turn.token_ids) for turn in await calls] == [1, 1]

    asyncio.run(main())


def test_full_pool_of_sessions_is_overload(start_daemon):
    daemon = start_daemon("--max_batch_rows=1", "--device_state_bytes=1000000", NO_TOKENIZER)
    with Client(daemon.address) as client:
        with pytest.raises(tttd_client.Overloaded) as raised:
            for _ in range(1000):
                client.session(None).complete([5], max_tokens=0)
        assert raised.value.reason == "STATE_POOL_FULL"
        assert raised.value.retry_after > 0


def test_model_without_a_tokenizer_takes_token_ids_alone(start_daemon):
    daemon = start_daemon(NO_TOKENIZER)
    with Client(daemon.address) as client:
        for call in (
            lambda: client.complete("text"),
            lambda: client.tokenize("text"),
            lambda: client.score("text"),
        ):
            with pytest.raises(tttd_client.NoTokenizer):
                call()
        turn = client.complete([5, 6], max_tokens=3)
        assert (len(turn.token_ids), turn.text) == (3, "")


def test_draining_server_is_unavailable_and_refuses(start_daemon):
    daemon = start_daemon(NO_TOKENIZER)
    with Client(daemon.address) as client:
        assert client.health()
        client.drain()
        with pytest.raises(tttd_client.Unavailable) as raised:
            client.complete([5])
        assert raised.value.reason == "DRAINING"
        assert raised.value.retry_after > 0
        assert raised.value.was_refused
        assert client.health() is False
        assert client.server_info().state == "draining"


def test_server_that_is_not_there_is_unavailable_without_a_reason():
    with socket.socket() as held:  # Bound and not listening: nobody answers here.
        held.bind(("127.0.0.1", 0))
        with Client(f"127.0.0.1:{held.getsockname()[1]}", retry=Retry()) as client:
            with pytest.raises(tttd_client.Unavailable) as raised:
                client.server_info()
        assert (raised.value.reason, raised.value.was_refused) == ("", False)


def test_connection_lost_in_a_turn_is_not_tried_again(start_daemon):
    daemon = start_daemon()
    with Client(daemon.address, retry=Retry()) as client:
        stream = client.stream(PROMPT, **ENDLESS)
        next(stream)
        daemon.stop()
        with pytest.raises(tttd_client.Unavailable) as raised:
            stream.result()
        assert not raised.value.was_refused
        with pytest.raises(tttd_client.Unavailable):
            stream.result()


def test_request_beyond_the_server_s_limit_is_invalid(client):
    with pytest.raises(tttd_client.InvalidRequest):
        client.tokenize("x" * (17 << 20))


def test_what_the_server_lacks_is_unsupported(client):
    call = client._channel.unary_unary(
        "/ttt.v1.Sessions/RewindSession", request_serializer=bytes, response_deserializer=bytes
    )
    with pytest.raises(grpc.RpcError) as raised:
        call(b"")
    assert isinstance(from_rpc_error(raised.value), tttd_client.Unsupported)


def test_cancelled_task_ends_its_turn(address):
    async def main():
        async with AsyncClient(address, timeout=60) as client, client.session() as session:

            async def wait_for_running_turns(count, task=None):
                while (await client.server_info()).load.running_turns != count:
                    assert task is None or not task.done()

            await session.complete(PROMPT, max_tokens=1)
            for turn in (
                lambda: session.complete(" and", **ENDLESS),
                lambda: session.stream(" and", **ENDLESS).result(),
            ):
                await asyncio.wait_for(wait_for_running_turns(0), 60)
                task = asyncio.ensure_future(turn())
                await asyncio.wait_for(wait_for_running_turns(1, task), 60)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert (await session.complete(max_tokens=1)).revision == 2

    asyncio.run(main())


def test_closed_client_raises(address):
    client = Client(address)
    client.close()
    with pytest.raises((tttd_client.TttError, ValueError)):
        client.server_info()


class Trailer:
    def __init__(self, code, trailers=(), details="told"):
        self._values = (code, trailers, details)

    def code(self):
        return self._values[0]

    def trailing_metadata(self):
        return self._values[1]

    def details(self):
        return self._values[2]


def test_error_tells_what_became_of_the_turn():
    status = status_pb2.Status()
    info = error_details_pb2.ErrorInfo(
        domain="tttd",
        reason="STEP_FAILED",
        metadata={"turn_id": "t", "revision": "3", "committed": "false"},
    )
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    for detail in (info, retry):
        status.details.add().Pack(detail)
    trailers = (("grpc-status-details-bin", status.SerializeToString()),)
    error = from_rpc_error(Trailer(grpc.StatusCode.INTERNAL, trailers))
    assert type(error) is tttd_client.ServerError
    assert (error.turn_id, error.revision, error.committed) == ("t", 3, False)
    assert (error.reason, error.retry_after) == ("STEP_FAILED", 1.5)


def test_details_that_cannot_be_read_are_left_out():
    trailers = (("grpc-status-details-bin", b"\xff\xff\xff"), ("other", "x"))
    error = from_rpc_error(Trailer(grpc.StatusCode.RESOURCE_EXHAUSTED, trailers))
    assert type(error) is tttd_client.Overloaded
    assert (error.reason, error.retry_after) == ("", None)
    assert not error.was_refused


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
)
def test_every_code_is_an_error_of_ours(code):
    error = from_rpc_error(Trailer(code, None, None))
    assert isinstance(error, tttd_client.TttError)
    assert error.code is code


def refusal(**more):
    return tttd_client.Overloaded("full", reason="QUEUE_FULL", **more)


def test_hint_is_the_least_wait_and_backoff_comes_on_top():
    retry = Retry(attempts=10, base_seconds=1.0, max_seconds=4.0)
    for attempt, most in ((1, 1.0), (2, 2.0), (3, 4.0), (9, 4.0)):
        waits = [retry.delay(attempt, refusal(retry_after=7.0)) for _ in range(200)]
        assert all(7.0 <= wait <= 7.0 + most for wait in waits)
        assert max(waits) - min(waits) > most / 2  # It is spread.
    assert retry.delay(10, refusal()) is None


def test_backoff_of_any_attempt_is_at_most_max_seconds():
    retry = Retry(attempts=10**9, max_seconds=4.0)
    for attempt in (1000, 1024, 1025, 10**6):
        assert 0.0 <= retry.delay(attempt, refusal()) <= 4.0


def test_only_refusals_are_tried_again():
    retry = Retry()
    assert retry.delay(1, refusal()) is not None
    assert retry.delay(1, refusal(committed=True)) is None
    for error in (
        tttd_client.Overloaded("from a proxy"),
        tttd_client.Unavailable("connection lost"),
        tttd_client.SlowConsumer("slow", reason="SLOW_CONSUMER"),
        tttd_client.ServerError("fault", reason="STEP_FAILED"),
        tttd_client.DeadlineExceeded("late", reason="DEADLINE_EXCEEDED"),
    ):
        assert retry.delay(1, error) is None


def test_call_whose_timeout_ends_before_the_hint_fails_at_once():
    assert Attempts(Retry(), timeout=3600.0).delay(refusal(retry_after=7.0)) is not None
    assert Attempts(Retry(), timeout=6.0).delay(refusal(retry_after=7.0)) is None


def test_without_a_policy_nothing_is_tried_again():
    assert Attempts(None, None).delay(refusal()) is None
    busy = tttd_client.SessionBusy("busy", reason="SESSION_BUSY")
    assert Attempts(None, None).delay(busy) is None
    # But a turn of our own that broke off is waited for.
    assert Attempts(None, None, time.monotonic() + 60).delay(busy) is not None
