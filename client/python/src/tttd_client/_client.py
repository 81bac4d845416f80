"""The client for threads."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Sequence
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


class Stream(Iterator[Delta]):
    """A turn that is being generated: iterates over what it gains.

    Leaving it early (`close()`, the end of a `with`, or dropping it) cancels the
    turn, and the session stays as it was, unless `on_cancel` said otherwise.
    For one thread at a time; `close()` may be called from any.
    """

    def __init__(
        self,
        client: Client,
        request: inference_pb2.CompleteRequest,
        timeout: Optional[float],
        session: Optional[Session],
    ) -> None:
        self._session = session
        self._events = _convert.EventReader()
        self._result: Optional[Completion] = None
        self._error: Optional[TttError] = None
        self._call: Any = None
        attempts = client._attempts(timeout, session)
        while self._events.accepted is None:
            self._call = client._stream_call(request, attempts.remaining())
            try:
                self._read()
            except TttError as error:
                delay = attempts.delay(error)
                if delay is None:
                    raise
                self._error = None
                time.sleep(delay)

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

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        while self._result is None and self._error is None:
            delta = self._read()
            if delta is not None:
                return delta
        raise StopIteration

    def _read(self) -> Optional[Delta]:
        try:
            event = next(self._call)
        except StopIteration:
            self._end()
            return None
        except grpc.RpcError as error:
            if self._error is None:
                self._error = from_rpc_error(error)
            if not self._error.was_refused:
                self._broke_off()
            # Its traceback would hold this object in a cycle, and it could not be
            # dropped.
            raise self._error from error.with_traceback(None)
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

    def result(self) -> Completion:
        """Reads to the end; the whole turn. Raises what ended it otherwise."""
        for _ in self:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_call"):
            self.close()


class Session:
    """One session of the server, through the calls of one client.

    Made by Client.session. `id` is empty until a session without a name has
    been made, `revision` is None until a call of this object has told it. For
    one thread at a time.
    """

    def __init__(
        self, client: Client, session_id: Optional[str], create: bool, ttl: Ttl
    ) -> None:
        self._client = client
        self._must_delete = session_id is None
        self._must_create = create or session_id is None
        self._ttl = ttl
        self._settled_at = 0.0
        self._stream: Optional[weakref.ref[Stream]] = None
        self.id = session_id or ""
        self.revision: Optional[int] = None

    def open(self, *, timeout: Optional[float] = None) -> None:
        """Makes the session if need be; every other call does so too, in its timeout."""
        self._open(timeout)

    def _open(self, timeout: Optional[float]) -> float:
        """As open. The seconds that are left then; math.inf: there is no timeout."""
        deadline = Deadline(self._client._timeout if timeout is None else timeout)
        if self._must_create:
            try:
                info = self._client.create_session(
                    self.id or None, ttl=self._ttl, timeout=deadline.remaining()
                )
                self.id, self.revision = info.session_id, info.revision
            except SessionExists:
                pass
            self._must_create = False
        return deadline.remaining()

    def complete(self, input: Input = None, **options: Unpack[CompleteOptions]) -> Completion:
        """Appends the input, generates, and commits both as one turn."""
        options["timeout"] = self._open(options.get("timeout"))
        completion = self._client._complete(input, self, **options)
        self._took(completion)
        return completion

    def stream(self, input: Input = None, **options: Unpack[CompleteOptions]) -> Stream:
        """As complete; the tokens come as they are made."""
        options["timeout"] = self._open(options.get("timeout"))
        stream = self._client._stream(input, self, **options)
        self._stream = weakref.ref(stream)
        return stream

    def score(
        self,
        input: Input,
        *,
        top_logprobs: Optional[int] = None,
        request_id: str = "",
        timeout: Optional[float] = None,
    ) -> Score:
        """How well the session predicts the input; commits nothing."""
        timeout = self._open(timeout)
        request = _requests.score_request(input, self.id, top_logprobs, request_id)
        return _convert.score(self._client._call(_rpc.SCORE, request, timeout, self))

    def info(self, *, timeout: Optional[float] = None) -> SessionInfo:
        timeout = self._open(timeout)
        info = self._client.get_session(self.id, timeout=timeout)
        self.revision = info.revision
        return info

    def fork(
        self,
        new_id: Optional[str] = None,
        *,
        ttl: Ttl = None,
        expected_revision: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> Session:
        """A new session that begins where this one is.

        As with Client.session, a `with` around it deletes it at the end if it
        was given no name.
        """
        timeout = self._open(timeout)
        info = self._client.fork_session(
            self.id, new_id, ttl=ttl, expected_revision=expected_revision, timeout=timeout
        )
        fork = Session(self._client, info.session_id, create=False, ttl=ttl)
        fork._must_delete = new_id is None
        fork.revision = info.revision
        return fork

    def delete(self, *, timeout: Optional[float] = None) -> None:
        timeout = self._open(timeout)
        request = _requests.delete_session_request(self.id)
        self._client._call(_rpc.DELETE_SESSION, request, timeout, self)
        self._must_delete = False

    def _took(self, completion: Completion) -> None:
        self.revision = completion.revision

    def _broke_off(self) -> None:
        # The server may need a moment to roll the turn back.
        self._settled_at = time.monotonic() + SETTLE_SECONDS

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
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
            self.delete(timeout=delete_seconds(self._client._timeout))
        except SessionNotFound:
            pass  # Deleted in the block, or expired.
        except TttError:
            if exception is None:
                raise  # Otherwise it would hide what ended the block.


class Client:
    """The calls of one tttd. Thread-safe; connects with the first call.

    `timeout`, in seconds, is that of calls that give none. `retry` says which
    failures are tried again; without it none is. ValueError: `target` is not
    HOST:PORT or a name with a scheme of gRPC's. TypeError, ValueError, of every
    call: an argument that cannot be sent, which the text names.
    """

    def __init__(
        self,
        target: str = _rpc.DEFAULT_TARGET,
        *,
        timeout: Optional[float] = None,
        retry: Optional[Retry] = None,
        channel: Optional[grpc.Channel] = None,
    ) -> None:
        self._timeout = checked_timeout(timeout)
        self._retry = checked_retry(retry)
        self._channel = channel or grpc.insecure_channel(
            _rpc.checked_target(target), _rpc.CHANNEL_OPTIONS
        )

    def close(self) -> None:
        """Ends the connection and the calls that run."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def complete(self, input: Input, **options: Unpack[CompleteOptions]) -> Completion:
        """Generates from the input alone; nothing is kept."""
        return self._complete(input, None, **options)

    def stream(self, input: Input, **options: Unpack[CompleteOptions]) -> Stream:
        """As complete; the tokens come as they are made."""
        return self._stream(input, None, **options)

    def score(
        self,
        input: Input,
        *,
        top_logprobs: Optional[int] = None,
        request_id: str = "",
        timeout: Optional[float] = None,
    ) -> Score:
        """How well the model predicts the input."""
        request = _requests.score_request(input, "", top_logprobs, request_id)
        return _convert.score(self._call(_rpc.SCORE, request, timeout))

    def session(
        self, name: Optional[str] = None, *, create: bool = False, ttl: Ttl = None
    ) -> Session:
        """A session to talk in.

        With a name: the session of that name, which stays when a `with` ends.
        `create` makes it if it is not there. Without a name: a new one, which
        the end of a `with` deletes, in 10 seconds or the client's timeout,
        whichever is less. `ttl`, in seconds, is how long a session that is made
        here lives after its last turn.
        """
        # What open() could not send is refused now.
        _requests.create_session_request(name, ttl, "name")
        return Session(self, name, create, ttl)

    def create_session(
        self, session_id: Optional[str] = None, *, ttl: Ttl = None, timeout: Optional[float] = None
    ) -> SessionInfo:
        request = _requests.create_session_request(session_id, ttl)
        return _convert.session_info(self._call(_rpc.CREATE_SESSION, request, timeout))

    def get_session(self, session_id: str, *, timeout: Optional[float] = None) -> SessionInfo:
        request = _requests.get_session_request(session_id)
        return _convert.session_info(self._call(_rpc.GET_SESSION, request, timeout))

    def list_sessions(
        self, *, page_size: int = 0, timeout: Optional[float] = None
    ) -> Iterator[SessionInfo]:
        """All sessions in order of id; `timeout` is that of one page."""
        request = _requests.list_sessions_request(page_size)
        while True:
            page = self._call(_rpc.LIST_SESSIONS, request, timeout)
            yield from map(_convert.session_info, page.sessions)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def delete_session(self, session_id: str, *, timeout: Optional[float] = None) -> None:
        request = _requests.delete_session_request(session_id)
        self._call(_rpc.DELETE_SESSION, request, timeout)

    def fork_session(
        self,
        session_id: str,
        new_id: Optional[str] = None,
        *,
        ttl: Ttl = None,
        expected_revision: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> SessionInfo:
        request = _requests.fork_session_request(session_id, new_id, ttl, expected_revision)
        return _convert.session_info(self._call(_rpc.FORK_SESSION, request, timeout))

    def tokenize(
        self, text: str, *, at_start: bool = False, timeout: Optional[float] = None
    ) -> Tokens:
        """`at_start`: as at the first token of a session, with begin-of-text."""
        request = _requests.tokenize_request(text, at_start)
        return _convert.tokens(self._call(_rpc.TOKENIZE, request, timeout))

    def detokenize(self, ids: Sequence[int], *, timeout: Optional[float] = None) -> str:
        request = _requests.detokenize_request(ids)
        return self._call(_rpc.DETOKENIZE, request, timeout).text

    def server_info(self, *, timeout: Optional[float] = None) -> ServerInfo:
        request = admin_pb2.GetServerInfoRequest()
        return _convert.server_info(self._call(_rpc.GET_SERVER_INFO, request, timeout))

    def drain(self, *, timeout: Optional[float] = None) -> None:
        """The server refuses new turns from now on; those that run go on."""
        self._call(_rpc.DRAIN, admin_pb2.DrainRequest(), timeout)

    def health(self, service: str = "", *, timeout: Optional[float] = None) -> bool:
        """Whether the server takes calls."""
        request = _requests.health_request(service)
        response = self._call(_rpc.HEALTH_CHECK, request, timeout)
        return bool(response.value == _rpc.HEALTH_SERVING)

    def _attempts(self, timeout: Optional[float], session: Optional[Session]) -> Attempts:
        return Attempts(
            self._retry,
            self._timeout if timeout is None else timeout,
            0.0 if session is None else session._settled_at,
        )

    def _call(
        self,
        method: _rpc.Method[_rpc.Q, _rpc.R],
        request: _rpc.Q,
        timeout: Optional[float],
        session: Optional[Session] = None,
    ) -> _rpc.R:
        call = self._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        attempts = self._attempts(timeout, session)
        while True:
            try:
                response: _rpc.R = call(request, timeout=attempts.remaining())
                return response
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error)
                delay = attempts.delay(error)
                if delay is None:
                    raise error from rpc_error
            time.sleep(delay)

    def _stream_call(
        self, request: inference_pb2.CompleteRequest, timeout: Optional[float]
    ) -> Any:
        method = _rpc.STREAM_COMPLETE
        return self._channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )(request, timeout=timeout)

    def _complete(
        self,
        input: Input,
        session: Optional[Session],
        *,
        timeout: Optional[float] = None,
        **options: Any,
    ) -> Completion:
        session_id = "" if session is None else session.id
        request = _requests.complete_request(input, session_id=session_id, **options)
        try:
            response = self._call(_rpc.COMPLETE, request, timeout, session)
        except BaseException as error:  # Ctrl-C too.
            was_refused = isinstance(error, TttError) and error.was_refused
            if session is not None and not was_refused:
                session._broke_off()
            raise
        return _convert.completion(response)

    def _stream(
        self,
        input: Input,
        session: Optional[Session],
        *,
        timeout: Optional[float] = None,
        **options: Any,
    ) -> Stream:
        session_id = "" if session is None else session.id
        request = _requests.complete_request(input, session_id=session_id, **options)
        return Stream(self, request, timeout, session)
