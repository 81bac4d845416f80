"""The requests of ttt.v1, from the arguments of calls.

TypeError, ValueError: an argument that its field does not hold; the text names it.
What else is wrong with an argument the server says.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional, Union

from google.protobuf import wrappers_pb2

from tttd_client import _types as t
from tttd_client._arguments import MISFITS, Ttl, put, put_all, put_ttl, refused
from tttd_client._proto.ttt.v1 import inference_pb2, sessions_pb2, tokenizer_pb2

_SAMPLING = tuple(field.name for field in dataclasses.fields(t.Sampling))

_ON_CANCEL = {
    t.OnCancel.ROLLBACK: inference_pb2.ON_CANCEL_ROLLBACK,
    t.OnCancel.COMMIT_PARTIAL: inference_pb2.ON_CANCEL_COMMIT_PARTIAL,
}

_TOKEN_IDS = "a sequence of token ids"


def _put_input(request: Any, input: t.Input) -> None:
    if input is None:
        return
    if isinstance(input, str):
        put(request, "text", input, "input")
    else:
        rule = f"text as str, or {_TOKEN_IDS}"
        put_all(request.token_ids, "ids", input, "input", rule)
        request.token_ids.SetInParent()


def _put_logit_bias(message: inference_pb2.Sampling, bias: Mapping[int, float]) -> None:
    try:
        pairs = dict(bias)
    except MISFITS as error:
        rule = "a mapping of token ids to numbers"
        raise refused(TypeError, "logit_bias", bias, rule) from error
    for token_id, value in pairs.items():
        entry = inference_pb2.Sampling.LogitBiasEntry()
        put(entry, "key", token_id, "a token id of logit_bias", required=True)
        put(entry, "value", value, f"logit_bias[{reprlib.repr(token_id)}]", required=True)
        message.logit_bias[entry.key] = entry.value


def _put_sampling(
    message: inference_pb2.Sampling,
    sampling: Optional[t.Sampling],
    named: Mapping[str, Any],
) -> None:
    if sampling is not None and not isinstance(sampling, t.Sampling):
        raise refused(TypeError, "sampling", sampling, "a Sampling")
    for name in _SAMPLING:
        value = named.get(name)
        if value is None and sampling is not None:
            value = getattr(sampling, name)
        if name != "logit_bias":
            put(message, name, value)
        elif value is not None:
            _put_logit_bias(message, value)


def complete_request(
    input: t.Input,
    *,
    session_id: str = "",
    sampling: Optional[t.Sampling] = None,
    stop: Union[str, Iterable[str]] = (),
    stop_token_ids: Iterable[int] = (),
    ignore_eos: bool = False,
    top_logprobs: Optional[int] = None,
    expected_revision: Optional[int] = None,
    on_cancel: t.OnCancel = t.OnCancel.ROLLBACK,
    request_id: str = "",
    **named: Any,
) -> inference_pb2.CompleteRequest:
    for name in named:
        if name not in _SAMPLING:
            raise TypeError(f"complete and stream take no '{name}'")
    if not isinstance(on_cancel, t.OnCancel):
        raise refused(TypeError, "on_cancel", on_cancel, " or ".join(map(str, t.OnCancel)))
    request = inference_pb2.CompleteRequest(on_cancel=_ON_CANCEL[on_cancel])
    put(request, "request_id", request_id)
    put(request, "session_id", session_id)
    put(request, "top_logprobs", top_logprobs)
    put(request, "expected_revision", expected_revision)
    _put_input(request, input)
    _put_sampling(request.sampling, sampling, named)
    if isinstance(stop, str):
        stop = [stop]
    put_all(request.stop, "strings", stop, "stop", "a str, or a sequence of them")
    put_all(request.stop, "token_ids", stop_token_ids, "stop_token_ids", _TOKEN_IDS)
    put(request.stop, "ignore_eos", ignore_eos)
    return request


def score_request(
    input: t.Input, session_id: str, top_logprobs: Optional[int], request_id: str
) -> inference_pb2.ScoreRequest:
    request = inference_pb2.ScoreRequest()
    put(request, "request_id", request_id)
    put(request, "session_id", session_id)
    put(request, "top_logprobs", top_logprobs)
    _put_input(request, input)
    return request


def create_session_request(
    session_id: Optional[str], ttl: Ttl, name: str = "session_id"
) -> sessions_pb2.CreateSessionRequest:
    """`name` is that of the argument with the id."""
    request = sessions_pb2.CreateSessionRequest()
    put(request, "session_id", session_id, name)
    put_ttl(request, ttl)
    return request


def get_session_request(session_id: str) -> sessions_pb2.GetSessionRequest:
    request = sessions_pb2.GetSessionRequest()
    put(request, "session_id", session_id, required=True)
    return request


def list_sessions_request(page_size: int) -> sessions_pb2.ListSessionsRequest:
    request = sessions_pb2.ListSessionsRequest()
    put(request, "page_size", page_size)
    return request


def delete_session_request(session_id: str) -> sessions_pb2.DeleteSessionRequest:
    request = sessions_pb2.DeleteSessionRequest()
    put(request, "session_id", session_id, required=True)
    return request


def fork_session_request(
    session_id: str, new_id: Optional[str], ttl: Ttl, expected_revision: Optional[int]
) -> sessions_pb2.ForkSessionRequest:
    request = sessions_pb2.ForkSessionRequest()
    put(request, "session_id", session_id, required=True)
    put(request, "new_session_id", new_id, "new_id")
    put_ttl(request, ttl)
    put(request, "expected_revision", expected_revision)
    return request


def tokenize_request(text: str, at_start: bool) -> tokenizer_pb2.TokenizeRequest:
    request = tokenizer_pb2.TokenizeRequest()
    put(request, "text", text, required=True)
    put(request, "at_start", at_start)
    return request


def detokenize_request(ids: Sequence[int]) -> tokenizer_pb2.DetokenizeRequest:
    request = tokenizer_pb2.DetokenizeRequest()
    put_all(request, "ids", ids, "ids", _TOKEN_IDS)
    return request


def health_request(service: str) -> wrappers_pb2.StringValue:
    request = wrappers_pb2.StringValue()
    put(request, "value", service, "service")
    return request
