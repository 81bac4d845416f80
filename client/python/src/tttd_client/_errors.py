"""What a failed call raises: one class for each thing that a caller can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "tttd"

# Reasons of a server that refused a call before it began.
REFUSALS = frozenset(
    {
        "QUEUE_FULL",
        "QUEUE_TIMEOUT",
        "DEADLINE_INFEASIBLE",
        "STATE_POOL_FULL",
        "TOO_MANY_SESSIONS",
        "SESSION_BUSY",
        "STARTING",
        "DRAINING",
    }
)


class TttError(Exception):
    """A call that failed. `str()` is the server's message."""

    code: grpc.StatusCode
    reason: str  # in capitals, such as QUEUE_FULL; empty if tttd did not answer
    message: str
    retry_after: Optional[float]  # seconds, if the server says when
    # What became of the turn, as far as the server said.
    turn_id: Optional[str]
    revision: Optional[int]
    committed: Optional[bool]
    field: Optional[str]  # the field of the request that is wrong

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        retry_after: Optional[float] = None,
        turn_id: Optional[str] = None,
        revision: Optional[int] = None,
        committed: Optional[bool] = None,
        field: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        self.turn_id = turn_id
        self.revision = revision
        self.committed = committed
        self.field = field

    def __str__(self) -> str:
        name = self.reason or self.code.name
        return f"{self.message} ({name})"

    @property
    def was_refused(self) -> bool:
        """Whether the server refused the call at the door.

        Nothing was done then, and the same call may be made again.
        """
        return self.reason in REFUSALS and not self.committed


class InvalidRequest(TttError):
    """The request is wrong; `field` may name where."""


class SessionNotFound(TttError):
    """There is no such session, or it has expired."""


class SessionExists(TttError):
    """There is a session of that name already."""


class SessionBusy(TttError):
    """Another call uses the session; try again."""


class RevisionMismatch(TttError):
    """The session has moved on from `expected_revision`; look at it anew."""


class NoTokenizer(TttError):
    """The model has no tokenizer: give and take token ids."""


class Overloaded(TttError):
    """The server has no room now; try again after `retry_after`."""


class SlowConsumer(TttError):
    """The stream was read too slowly, and its turn was rolled back."""


class Unavailable(TttError):
    """The server is not there, or starting, or draining.

    With a reason, the call was refused. Without one, the connection failed, and
    a turn that was under way may have been committed: `info()` of the session
    tells.
    """


class DeadlineExceeded(TttError, TimeoutError):
    """The call took longer than its timeout."""


class Cancelled(TttError):
    """The call was cancelled."""


class Unsupported(TttError):
    """This server does not have the call or the field."""


class ServerError(TttError):
    """The server failed."""


_BY_REASON: Mapping[str, type[TttError]] = {
    "REVISION_MISMATCH": RevisionMismatch,
    "NO_TOKENIZER": NoTokenizer,
    "SLOW_CONSUMER": SlowConsumer,
    "ANSWER_TOO_LARGE": InvalidRequest,
}

_BY_CODE: Mapping[grpc.StatusCode, type[TttError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: SessionNotFound,
    grpc.StatusCode.ALREADY_EXISTS: SessionExists,
    grpc.StatusCode.ABORTED: SessionBusy,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
}


def _class_of(code: grpc.StatusCode, reason: str, message: str) -> type[TttError]:
    if reason in _BY_REASON:
        return _BY_REASON[reason]
    # gRPC's own refusal of a message that will never fit.
    if not reason and code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        return InvalidRequest
    return _BY_CODE.get(code, ServerError)


def _details(trailers: Any) -> status_pb2.Status:
    status = status_pb2.Status()
    for key, value in trailers or ():
        if key == _DETAILS_KEY:
            try:
                status.ParseFromString(value)
            except Exception:  # Details that cannot be read are left out.
                return status_pb2.Status()
    return status


def from_rpc_error(error: Any) -> TttError:
    """The exception for a grpc.RpcError that ended a call."""
    code: grpc.StatusCode = error.code()
    message = error.details() or "the call failed"
    reason = ""
    retry_after = None
    field = None
    metadata: Mapping[str, str] = {}
    for detail in _details(error.trailing_metadata()).details:
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(info) and info.domain == _DOMAIN:
            reason = info.reason
            metadata = info.metadata
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif detail.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
    # What answered there is a server of HTTP 1, such as the daemon's own.
    if code is grpc.StatusCode.UNAVAILABLE and "parsing HTTP/2" in message:
        message += "; is this the HTTP port? gRPC is on 50051 by default"
    revision = metadata.get("revision", "")
    return _class_of(code, reason, message)(
        message,
        code=code,
        reason=reason,
        retry_after=retry_after,
        turn_id=metadata.get("turn_id") or None,
        revision=int(revision) if revision.isdigit() else None,
        committed={"true": True, "false": False}.get(metadata.get("committed", "")),
        field=field,
    )
