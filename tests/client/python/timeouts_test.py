"""A timeout is of the whole call, with what is called to make the session."""

import asyncio
import math
import socket
import time
from concurrent import futures

import grpc
import pytest
import tttd_client
from tttd_client import AsyncClient, Client
from tttd_client._proto.ttt.v1 import inference_pb2, sessions_pb2

NO_TIMEOUT = 1e9  # Where there is none, gRPC says more seconds than these.

# What each gives is awaited where the session is an AsyncSession.
CALLS = {
    "Complete": lambda session, **timeout: session.complete("x", **timeout),
    "StreamComplete": lambda session, **timeout: session.stream("x", **timeout).result(),
    "Score": lambda session, **timeout: session.score("x", **timeout),
    "GetSession": lambda session, **timeout: session.info(**timeout),
    "ForkSession": lambda session, **timeout: session.fork(**timeout),
    "DeleteSession": lambda session, **timeout: session.delete(**timeout),
}


def sync_call(address, call, **options):
    with Client(address, **options) as client:
        call(client.session("w", create=True))


def async_call(address, call, **options):
    async def main():
        async with AsyncClient(address, **options) as client:
            await call(client.session("w", create=True))

    asyncio.run(main())


def sync_block(address, **options):
    with Client(address, **options) as client, client.session():
        pass


def async_block(address, **options):
    async def main():
        async with AsyncClient(address, **options) as client, client.session():
            pass

    asyncio.run(main())


@pytest.fixture
def silent_address():
    """Connections are taken here, and nothing is ever said."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


class FakeServer(grpc.GenericRpcHandler):
    """Has an answer to every call, and keeps how many seconds each was given.

    CreateSession answers when less than `hold_until` of them are left.
    """

    def __init__(self, hold_until=math.inf):
        self.seconds = {}
        self._hold_until = hold_until
        self._server = grpc.server(futures.ThreadPoolExecutor(), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def service(self, details):
        name = details.method.rsplit("/", 1)[-1]

        def call(request, context):
            self.seconds[name] = context.time_remaining()
            if name != "CreateSession":
                return b""
            while self._hold_until < context.time_remaining() < NO_TIMEOUT:
                time.sleep(0.01)
            return sessions_pb2.Session(session_id="w").SerializeToString()

        def stream(request, context):
            self.seconds[name] = context.time_remaining()
            for event in (
                inference_pb2.CompleteEvent(accepted={}),
                inference_pb2.CompleteEvent(finished={}),
            ):
                yield event.SerializeToString()

        if name == "StreamComplete":
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(call)

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *exception):
        self._server.stop(None).wait()


@pytest.mark.parametrize("make", [sync_call, async_call])
@pytest.mark.parametrize(
    "call", [*CALLS.values(), lambda session, **timeout: session.open(**timeout)],
    ids=[*CALLS, "CreateSession"],
)
def test_timeout_ends_a_call_that_first_makes_its_session(make, call, silent_address):
    with pytest.raises(tttd_client.DeadlineExceeded):
        make(silent_address, lambda session: call(session, timeout=0.2))


# gRPC may tell the server of up to 3 % more than is left.
@pytest.mark.parametrize("make", [sync_call, async_call])
@pytest.mark.parametrize("name", CALLS)
def test_making_the_session_takes_of_the_timeout_of_the_call(make, name):
    with FakeServer(hold_until=5.6) as server:
        make(server.address, lambda session: CALLS[name](session, timeout=6))
        assert 0 < server.seconds[name] < 5.8


@pytest.mark.parametrize("make", [sync_call, async_call])
def test_making_the_session_takes_of_the_timeout_of_the_client(make):
    with FakeServer(hold_until=5.6) as server:
        make(server.address, CALLS["Complete"], timeout=6)
        assert 0 < server.seconds["Complete"] < 5.8


@pytest.mark.parametrize("make", [sync_call, async_call])
@pytest.mark.parametrize("name", CALLS)
def test_infinite_timeout_is_none_in_both_calls(make, name):
    with FakeServer() as server:
        make(server.address, lambda session: CALLS[name](session, timeout=math.inf), timeout=60)
        assert min(server.seconds["CreateSession"], server.seconds[name]) > NO_TIMEOUT


@pytest.mark.parametrize("block", [sync_block, async_block])
@pytest.mark.parametrize(
    ("options", "most"), [({}, 10), ({"timeout": 3600}, 10), ({"timeout": 5}, 5)]
)
def test_end_of_a_block_deletes_within_a_bound(block, options, most):
    with FakeServer() as server:
        block(server.address, **options)
        assert most - 5 < server.seconds["DeleteSession"] < most + 0.1
