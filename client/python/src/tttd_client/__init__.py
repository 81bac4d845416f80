"""The client of tttd, which serves Test-Time Training language models.

    from tttd_client import Client

    with Client("127.0.0.1:50051") as client, client.session() as session:
        for delta in session.stream("The morning was cold, and", max_tokens=40):
            print(delta, end="", flush=True)
        print(session.complete(" By noon").text)

AsyncClient has the same calls for asyncio. A call that fails raises a TttError.
"""

from importlib.metadata import version as _version

from tttd_client._aio import AsyncClient, AsyncSession, AsyncStream
from tttd_client._client import Client, Session, Stream
from tttd_client._errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    NoTokenizer,
    Overloaded,
    RevisionMismatch,
    ServerError,
    SessionBusy,
    SessionExists,
    SessionNotFound,
    SlowConsumer,
    TttError,
    Unavailable,
    Unsupported,
)
from tttd_client._retry import Retry
from tttd_client._types import (
    Candidate,
    CompleteOptions,
    Completion,
    Delta,
    FinishReason,
    Limits,
    Load,
    ModelInfo,
    OnCancel,
    Position,
    Sampling,
    Score,
    ServerInfo,
    SessionInfo,
    Tier,
    Timing,
    Tokens,
    Usage,
)

__version__ = _version("tttd-client")

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "AsyncStream",
    "Cancelled",
    "Candidate",
    "Client",
    "CompleteOptions",
    "Completion",
    "DeadlineExceeded",
    "Delta",
    "FinishReason",
    "InvalidRequest",
    "Limits",
    "Load",
    "ModelInfo",
    "NoTokenizer",
    "OnCancel",
    "Overloaded",
    "Position",
    "Retry",
    "RevisionMismatch",
    "Sampling",
    "Score",
    "ServerError",
    "ServerInfo",
    "Session",
    "SessionBusy",
    "SessionExists",
    "SessionInfo",
    "SessionNotFound",
    "SlowConsumer",
    "Stream",
    "Tier",
    "Timing",
    "Tokens",
    "TttError",
    "Unavailable",
    "Unsupported",
    "Usage",
]
