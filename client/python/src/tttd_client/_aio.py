"""The client for asyncio: the same calls as _client.py, awaited."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional

import grpc

from tttd_client import _convert, _requests, _rpc
from tttd_client._arguments import Ttl, checked_timeout
from tttd_client._errors import Cancelled, SessionExists, SessionNotFound, TttError, from_rpc_error
from tttd_client._proto.ttt.v1 import admin_pb2, inference_pb2
from tttd_client._retry import (
    SETTLE_SECONDS,
    Attempts,
    Deadline,
    Retry,
    checked_retry,
    delete_seconds,
)
from tttd_client._types import (
    CompleteOptions,
    Completion,
    Delta,
    Input,
    Score,
    ServerInfo,
    SessionInfo,
    Tokens,
)

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class AsyncStream(AsyncIterator[Delta]):
    """A turn that is being generated: iterates over what it gains.

    The call begins with the first read, the `async with`, or `start()`. Leaving
    it early (`close()`, the end of an `async with`, or dropping it) cancels the
    turn, and the session stays as it was, unless `on_cancel` said otherwise. For
    one task at a time.
    """

    def __init__(
        self,
        client: AsyncClient,
        request: inference_pb2.CompleteRequest,
        timeout: Optional[float],
        session: Optional[AsyncSession],
    ) -> None:
        self._call: Any = None
        self._client = client
        self._request = request
        self._timeout = checked_timeout(timeout)
        self._session = session
        self._events = _convert.EventReader()
        self._result: Optional[Completion] = None
        self._error: Optional[TttError] = None

    @property
    def turn_id(self) -> str:
        return self._events.accepted.turn_id if self._events.accepted else ""

    @property
    def seed(self) -> int:
        return self._events.accepted.seed if self._events.accepted else 0

    @property
    def text(self) -> str:
        """All of it so far."""
        return self._events.text

    async def start(self) -> None:
        """Waits until the server has taken the call."""
        if self._call is not None or self._error is not None:
            return
        timeout = self._timeout
        if self._session is not None:
            timeout = await self._session._open(timeout)
            self._request.session_id = self._session.id
        attempts = self._client._attempts(timeout, self._session)
        while self._events.accepted is None:
            self._call = self._client._stream_call(self._request, attempts.remaining())
            try:
                await self._read()
            except TttError as error:
                delay = attempts.delay(error)
                if delay is None:
                    raise
                self._error = None
                await asyncio.sleep(delay)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        await self.start()
        while self._result is None and self._error is None:
            delta = await self._read()
            if delta is not None:
                return delta
        raise StopAsyncIteration

    async def _read(self) -> Optional[Delta]:
        try:
            event = await self._call.read()
        except grpc.RpcError as error:
            if self._error is None:
                self._error = from_rpc_error(error)
            if not self._error.was_refused:
                self._broke_off()
            # Its traceback would hold this object in a cycle, and it could not be
            # dropped.
            raise self._error from error.with_traceback(None)
        except asyncio.CancelledError:
            # gRPC raises it in a call that close() has cancelled, too.
            if self._error is not None:
                raise self._error from None
            self.close()
            raise
        if event is grpc.aio.EOF:  # type: ignore[attr-defined]
            self._end()
            return None
        return self._events.take(event)

    def _end(self) -> None:
        try:
            self._result = self._events.completion()
        except TttError as error:
            self._error = error
            raise
        if self._session is not None:
            self._session._took(self._result)

    def _broke_off(self) -> None:
        if self._session is not None:
            self._session._broke_off()

    async def result(self) -> Completion:
        """Reads to the end; the whole turn. Raises what ended it otherwise."""
        async for _ in self:
            pass
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def close(self) -> None:
        """Cancels the turn, if it has not ended."""
        if self._result is not None or self._error is not None:
            return
        self._error = Cancelled("the stream was closed", code=grpc.StatusCode.CANCELLED)
        if self._call is not None:
            self._call.cancel()
            self._broke_off()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_call", None) is not None:
            self.close()


class AsyncSession:
    """One session of the server, through the calls of one client.

    Made by AsyncClient.session. `id` is empty until a session without a name has
    been made, `revision` is None until a call of this object has told it. For
    one task at a time.
    """

    def __init__(
        self, client: AsyncClient, session_id: Optional[str], create: bool, ttl: Ttl
    ) -> None:
        self._client = client
        self._must_delete = session_id is None
        self._must_create = create or session_id is None
        self._ttl = ttl
        self._settled_at = 0.0
        self._stream: Optional[weakref.ref[AsyncStream]] = None
        self.id = session_id or ""
        self.revision: Optional[int] = None

    async def open(self, *, timeout: Optional[float] = None) -> None:
        """Makes the session if need be; every other call does so too, in its timeout."""
        await self._open(timeout)

    async def _open(self, timeout: Optional[float]) -> float:
        """As open. The seconds that are left then; math.inf: there is no timeout."""
        deadline = Deadline(self._client._timeout if timeout is None else timeout)
        if self._must_create:
            try:
                info = await self._client.create_session(
                    self.id or None, ttl=self._ttl, timeout=deadline.remaining()
                )
                self.id, self.revision = info.session_id, info.revision
            except SessionExists:
                pass
            self._must_create = False
        return deadline.remaining()

    async def complete(self, input: Input = None, **options: Unpack[CompleteOptions]) -> Completion:
        """Appends the input, generates, and commits both as one turn."""
        options["timeout"] = await self._open(options.get("timeout"))
        completion = await self._client._complete(input, self, **options)
        self._took(completion)
        return completion

    def stream(self, input: Input = None, **options: Unpack[CompleteOptions]) -> AsyncStream:
        """As complete; the tokens come as they are made."""
        stream = self._client._stream(input, self, **options)
        self._stream = weakref.ref(stream)
        return stream

    async def score(
        self,
        input: Input,
        *,
        top_logprobs: Optional[int] = None,
        request_id: str = "",
        timeout: Optional[float] = None,
    ) -> Score:
        """How well the session predicts the input; commits nothing."""
        timeout = await self._open(timeout)
        request = _requests.score_request(input, self.id, top_logprobs, request_id)
        return _convert.score(await self._client._call(_rpc.SCORE, request, timeout, self))

    async def info(self, *, timeout: Optional[float] = None) -> SessionInfo:
        timeout = await self._open(timeout)
        info = await self._client.get_session(self.id, timeout=timeout)
        self.revision = info.revision
        return info

    async def fork(
        self,
        new_id: Optional[str] = None,
        *,
        ttl: Ttl = None,
        expected_revision: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> AsyncSession:
        """A new session that begins where this one is.

        As with AsyncClient.session, an `async with` around it deletes it at the end
        if it was given no name.
        """
        timeout = await self._open(timeout)
        info = await self._client.fork_session(
            self.id, new_id, ttl=ttl, expected_revision=expected_revision, timeout=timeout
        )
        fork = AsyncSession(self._client, info.session_id, create=False, ttl=ttl)
        fork._must_delete = new_id is None
        fork.revision = info.revision
        return fork

    async def delete(self, *, timeout: Optional[float] = None) -> None:
        timeout = await self._open(timeout)
        request = _requests.delete_session_request(self.id)
        await self._client._call(_rpc.DELETE_SESSION, request, timeout, self)
        self._must_delete = False

    def _took(self, completion: Completion) -> None:
        self.revision = completion.revision

    def _broke_off(self) -> None:
        # The server may need a moment to roll the turn back.
        self._settled_at = time.monotonic() + SETTLE_SECONDS

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        exception: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        stream = None if self._stream is None else self._stream()
        if stream is not None:
            stream.close()
        if not self._must_delete:
            return
        try:
            await self.delete(timeout=delete_seconds(self._client._timeout))
        except SessionNotFound:
            pass  # Deleted in the block, or expired.
        except TttError:
            if exception is None:
                raise  # Otherwise it would hide what ended the block.


class AsyncClient:
    """The calls of one tttd, for the tasks of one event loop.

    Connects with the first call.

    `timeout`, in seconds, is that of calls that give none. `retry` says which
    failures are tried again; without it none is. TypeError, ValueError: as Client.
    """

    def __init__(
        self,
        target: str = _rpc.DEFAULT_TARGET,
        *,
        timeout: Optional[float] = None,
        retry: Optional[Retry] = None,
        channel: Optional[grpc.aio.Channel] = None,
    ) -> None:
        self._timeout = checked_timeout(timeout)
        self._retry = checked_retry(retry)
        self._channel = channel or grpc.aio.insecure_channel(
            _rpc.checked_target(target), _rpc.CHANNEL_OPTIONS
        )

    async def close(self) -> None:
        """Ends the connection and the calls that run."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def complete(self, input: Input, **options: Unpack[CompleteOptions]) -> Completion:
        """Generates from the input alone; nothing is kept."""
        return await self._complete(input, None, **options)

    def stream(self, input: Input, **options: Unpack[CompleteOptions]) -> AsyncStream:
        """As complete; the tokens come as they are made."""
        return self._stream(input, None, **options)

    async def score(
        self,
        input: Input,
        *,
        top_logprobs: Optional[int] = None,
        request_id: str = "",
        timeout: Optional[float] = None,
    ) -> Score:
        """How well the model predicts the input."""
        request = _requests.score_request(input, "", top_logprobs, request_id)
        return _convert.score(await self._call(_rpc.SCORE, request, timeout))

    def session(
        self, name: Optional[str] = None, *, create: bool = False, ttl: Ttl = None
    ) -> AsyncSession:
        """A session to talk in.

        With a name: the session of that name, which stays when an `async with` ends.
        `create` makes it if it is not there. Without a name: a new one, which
        the end of an `async with` deletes, in 10 seconds or the client's timeout,
        whichever is less. `ttl`, in seconds, is how long a session that is made
        here lives after its last turn.
        """
        # What open() could not send is refused now.
        _requests.create_session_request(name, ttl, "name")
        return AsyncSession(self, name, create, ttl)

    async def create_session(
        self, session_id: Optional[str] = None, *, ttl: Ttl = None, timeout: Optional[float] = None
    ) -> SessionInfo:
        request = _requests.create_session_request(session_id, ttl)
        return _convert.session_info(await self._call(_rpc.CREATE_SESSION, request, timeout))

    async def get_session(self, session_id: str, *, timeout: Optional[float] = None) -> SessionInfo:
        request = _requests.get_session_request(session_id)
        return _convert.session_info(await self._call(_rpc.GET_SESSION, request, timeout))

    async def list_sessions(
        self, *, page_size: int = 0, timeout: Optional[float] = None
    ) -> AsyncIterator[SessionInfo]:
        """All sessions in order of id; `timeout` is that of one page."""
        request = _requests.list_sessions_request(page_size)
        while True:
            page = await self._call(_rpc.LIST_SESSIONS, request, timeout)
            for session in page.sessions:
                yield _convert.session_info(session)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def delete_session(self, session_id: str, *, timeout: Optional[float] = None) -> None:
        request = _requests.delete_session_request(session_id)
        await self._call(_rpc.DELETE_SESSION, request, timeout)

    async def fork_session(
        self,
        session_id: str,
        new_id: Optional[str] = None,
        *,
        ttl: Ttl = None,
        expected_revision: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> SessionInfo:
        request = _requests.fork_session_request(session_id, new_id, ttl, expected_revision)
        return _convert.session_info(await self._call(_rpc.FORK_SESSION, request, timeout))

    async def tokenize(
        self, text: str, *, at_start: bool = False, timeout: Optional[float] = None
    ) -> Tokens:
        """`at_start`: as at the first token of a session, with begin-of-text."""
        request = _requests.tokenize_request(text, at_start)
        return _convert.tokens(await self._call(_rpc.TOKENIZE, request, timeout))

    async def detokenize(self, ids: Sequence[int], *, timeout: Optional[float] = None) -> str:
        request = _requests.detokenize_request(ids)
        return (await self._call(_rpc.DETOKENIZE, request, timeout)).text

    async def server_info(self, *, timeout: Optional[float] = None) -> ServerInfo:
        request = admin_pb2.GetServerInfoRequest()
        return _convert.server_info(await self._call(_rpc.GET_SERVER_INFO, request, timeout))

    async def drain(self, *, timeout: Optional[float] = None) -> None:
        """The server refuses new turns from now on; those that run go on."""
        await self._call(_rpc.DRAIN, admin_pb2.DrainRequest(), timeout)

    async def health(self, service: str = "", *, timeout: Optional[float] = None) -> bool:
        """Whether the server takes calls."""
        request = _requests.health_request(service)
        response = await self._call(_rpc.HEALTH_CHECK, request, timeout)
        return bool(response.value == _rpc.HEALTH_SERVING)

    def _attempts(self, timeout: Optional[float], session: Optional[AsyncSession]) -> Attempts:
        return Attempts(
            self._retry,
            self._timeout if timeout is None else timeout,
            0.0 if session is None else session._settled_at,
        )

    async def _call(
        self,
        method: _rpc.Method[_rpc.Q, _rpc.R],
        request: _rpc.Q,
        timeout: Optional[float],
        session: Optional[AsyncSession] = None,
    ) -> _rpc.R:
        call = self._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        attempts = self._attempts(timeout, session)
        while True:
            try:
                response: _rpc.R = await call(request, timeout=attempts.remaining())
                return response
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error)
                delay = attempts.delay(error)
                if delay is None:
                    raise error from rpc_error
            await asyncio.sleep(delay)

    def _stream_call(
        self, request: inference_pb2.CompleteRequest, timeout: Optional[float]
    ) -> Any:
        method = _rpc.STREAM_COMPLETE
        return self._channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )(request, timeout=timeout)

    async def _complete(
        self,
        input: Input,
        session: Optional[AsyncSession],
        *,
        timeout: Optional[float] = None,
        **options: Any,
    ) -> Completion:
        session_id = "" if session is None else session.id
        request = _requests.complete_request(input, session_id=session_id, **options)
        try:
            response = await self._call(_rpc.COMPLETE, request, timeout, session)
        except BaseException as error:  # A cancelled task too.
            was_refused = isinstance(error, TttError) and error.was_refused
            if session is not None and not was_refused:
                session._broke_off()
            raise
        return _convert.completion(response)

    def _stream(
        self,
        input: Input,
        session: Optional[AsyncSession],
        *,
        timeout: Optional[float] = None,
        **options: Any,
    ) -> AsyncStream:
        session_id = "" if session is None else session.id
        request = _requests.complete_request(input, session_id=session_id, **options)
        return AsyncStream(self, request, timeout, session)
