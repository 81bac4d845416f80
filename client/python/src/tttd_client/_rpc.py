"""The calls of ttt.v1 by name, and the options of a channel."""

from __future__ import annotations

import dataclasses
from typing import Generic, TypeVar

from google.protobuf import message, wrappers_pb2

from tttd_client._arguments import refused
from tttd_client._proto.ttt.v1 import admin_pb2, inference_pb2, sessions_pb2, tokenizer_pb2

Q = TypeVar("Q", bound=message.Message)
R = TypeVar("R", bound=message.Message)

DEFAULT_TARGET = "127.0.0.1:50051"

_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "xds:")


def checked_target(target: str) -> str:
    """The target. ValueError: not HOST:PORT, [IPV6]:PORT or one with a scheme of gRPC's.

    gRPC itself would look for port 443, or for a host of that name. TypeError: no str.
    """
    if not isinstance(target, str):
        raise refused(TypeError, "target", target, f"a str such as {DEFAULT_TARGET!r}")
    if target.startswith(_SCHEMES):
        return target
    host, _, port = target.rpartition(":")
    if "://" in target:
        problem = "begins like a web address"
    elif not host and not target.startswith(":") or target.endswith("]"):
        problem = "has no port"
    elif ":" in host and not (host.startswith("[") and host.endswith("]")):
        problem = "has an IPv6 address without [ and ]"
    elif not host:
        problem = "has no host"
    elif not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        problem = "has no port of 1 to 65535"
    else:
        return target
    raise ValueError(f"target {target!r} {problem}; HOST:PORT is wanted, such as {DEFAULT_TARGET}")


# gRPC takes answers of 4 MiB; a score of a million tokens is tens of them.
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


@dataclasses.dataclass(frozen=True)
class Method(Generic[Q, R]):
    path: str
    request: type[Q]
    response: type[R]


COMPLETE = Method(
    "/ttt.v1.Inference/Complete", inference_pb2.CompleteRequest, inference_pb2.CompleteResponse
)
STREAM_COMPLETE = Method(
    "/ttt.v1.Inference/StreamComplete", inference_pb2.CompleteRequest, inference_pb2.CompleteEvent
)
SCORE = Method("/ttt.v1.Inference/Score", inference_pb2.ScoreRequest, inference_pb2.ScoreResponse)
CREATE_SESSION = Method(
    "/ttt.v1.Sessions/CreateSession", sessions_pb2.CreateSessionRequest, sessions_pb2.Session
)
GET_SESSION = Method(
    "/ttt.v1.Sessions/GetSession", sessions_pb2.GetSessionRequest, sessions_pb2.Session
)
LIST_SESSIONS = Method(
    "/ttt.v1.Sessions/ListSessions",
    sessions_pb2.ListSessionsRequest,
    sessions_pb2.ListSessionsResponse,
)
DELETE_SESSION = Method(
    "/ttt.v1.Sessions/DeleteSession",
    sessions_pb2.DeleteSessionRequest,
    sessions_pb2.DeleteSessionResponse,
)
FORK_SESSION = Method(
    "/ttt.v1.Sessions/ForkSession", sessions_pb2.ForkSessionRequest, sessions_pb2.Session
)
TOKENIZE = Method(
    "/ttt.v1.Tokenizer/Tokenize", tokenizer_pb2.TokenizeRequest, tokenizer_pb2.TokenizeResponse
)
DETOKENIZE = Method(
    "/ttt.v1.Tokenizer/Detokenize",
    tokenizer_pb2.DetokenizeRequest,
    tokenizer_pb2.DetokenizeResponse,
)
GET_SERVER_INFO = Method(
    "/ttt.v1.Admin/GetServerInfo", admin_pb2.GetServerInfoRequest, admin_pb2.ServerInfo
)
DRAIN = Method("/ttt.v1.Admin/Drain", admin_pb2.DrainRequest, admin_pb2.DrainResponse)

# grpc.health.v1 in messages of the same wire format: a string and an enum, both
# in field 1.
HEALTH_CHECK = Method(
    "/grpc.health.v1.Health/Check", wrappers_pb2.StringValue, wrappers_pb2.Int32Value
)
HEALTH_SERVING = 1
