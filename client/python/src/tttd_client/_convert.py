"""What callers see, from the answers of ttt.v1."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable
from typing import Any, Optional

import grpc
from google.protobuf import timestamp_pb2

from tttd_client import _types as t
from tttd_client._errors import ServerError
from tttd_client._proto.ttt.v1 import admin_pb2, inference_pb2, sessions_pb2, tokenizer_pb2

_FINISH = {
    inference_pb2.FINISH_REASON_STOP: t.FinishReason.STOP,
    inference_pb2.FINISH_REASON_LENGTH: t.FinishReason.LENGTH,
    inference_pb2.FINISH_REASON_CANCELLED: t.FinishReason.CANCELLED,
}
_TIER = {
    sessions_pb2.TIER_RUNNING: t.Tier.RUNNING,
    sessions_pb2.TIER_DEVICE: t.Tier.DEVICE,
    sessions_pb2.TIER_HOST: t.Tier.HOST,
    sessions_pb2.TIER_DISK: t.Tier.DISK,
}


def position(message: inference_pb2.Position) -> t.Position:
    return t.Position(
        token_id=message.token_id,
        logprob=message.logprob if message.HasField("logprob") else None,
        top_logprobs=tuple(t.Candidate(c.token_id, c.logprob) for c in message.top_logprobs),
    )


def _positions(messages: Iterable[inference_pb2.Position]) -> tuple[t.Position, ...]:
    return tuple(position(message) for message in messages)


def _usage(message: inference_pb2.Usage) -> t.Usage:
    return t.Usage(
        message.input_tokens, message.reused_tokens, message.output_tokens, message.session_tokens
    )


def _timing(message: inference_pb2.Timing) -> t.Timing:
    return t.Timing(message.queue_seconds, message.prefill_seconds, message.decode_seconds)


def completion(message: inference_pb2.CompleteResponse) -> t.Completion:
    in_session = message.session_id != ""
    return t.Completion(
        text=message.text,
        token_ids=tuple(message.token_ids),
        finish_reason=_FINISH.get(message.finish_reason, t.FinishReason.UNKNOWN),
        matched_stop=message.matched_stop or None,
        seed=message.seed,
        usage=_usage(message.usage),
        timing=_timing(message.timing),
        logprobs=_positions(message.logprobs),
        turn_id=message.turn_id,
        session_id=message.session_id if in_session else None,
        revision=message.revision if in_session else None,
        state_digest=message.state_digest if in_session else None,
    )


class EventReader:
    """Gathers the events of one stream."""

    def __init__(self) -> None:
        self.accepted: Optional[inference_pb2.CompleteEvent.Accepted] = None
        self._finished: Optional[inference_pb2.CompleteEvent.Finished] = None
        self._committed: Optional[inference_pb2.CompleteEvent.Committed] = None
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[t.Position] = []

    @property
    def text(self) -> str:
        return "".join(self._text)

    def take(self, event: inference_pb2.CompleteEvent) -> Optional[t.Delta]:
        """The tokens of the event, if it has any."""
        kind = event.WhichOneof("event")
        if kind == "accepted":
            self.accepted = event.accepted
        elif kind == "finished":
            self._finished = event.finished
        elif kind == "committed":
            self._committed = event.committed
        elif kind == "tokens":
            tokens = event.tokens
            logprobs = _positions(tokens.logprobs)
            self._text.append(tokens.text)
            self._token_ids.extend(tokens.ids)
            self._logprobs.extend(logprobs)
            return t.Delta(tokens.text, tuple(tokens.ids), tokens.index, logprobs)
        return None

    def completion(self) -> t.Completion:
        accepted, finished, committed = self.accepted, self._finished, self._committed
        in_session = accepted is not None and accepted.session_id != ""
        if accepted is None or finished is None or (in_session and committed is None):
            raise ServerError("the stream ended early", code=grpc.StatusCode.INTERNAL)
        return t.Completion(
            text=self.text,
            token_ids=tuple(self._token_ids),
            finish_reason=_FINISH.get(finished.finish_reason, t.FinishReason.UNKNOWN),
            matched_stop=finished.matched_stop or None,
            seed=accepted.seed,
            usage=_usage(finished.usage),
            timing=_timing(finished.timing),
            logprobs=tuple(self._logprobs),
            turn_id=accepted.turn_id,
            session_id=accepted.session_id if in_session else None,
            revision=None if committed is None else committed.revision,
            state_digest=None if committed is None else committed.state_digest,
        )


def score(message: inference_pb2.ScoreResponse) -> t.Score:
    return t.Score(
        positions=_positions(message.positions),
        first=position(message.first) if message.HasField("first") else None,
        usage=_usage(message.usage),
    )


def _time(message: timestamp_pb2.Timestamp) -> datetime.datetime:
    return message.ToDatetime(tzinfo=datetime.timezone.utc)


def session_info(message: sessions_pb2.Session) -> t.SessionInfo:
    def time(name: str) -> Optional[datetime.datetime]:
        return _time(getattr(message, name)) if message.HasField(name) else None

    return t.SessionInfo(
        session_id=message.session_id,
        revision=message.revision,
        tokens=message.tokens,
        model_fingerprint=message.model_fingerprint,
        tier=_TIER.get(message.tier, t.Tier.UNKNOWN),
        state_bytes=message.state_bytes,
        state_digest=message.state_digest,
        parent_session_id=message.parent_session_id or None,
        create_time=time("create_time"),
        last_used_time=time("last_used_time"),
        expire_time=time("expire_time"),
    )


def tokens(message: tokenizer_pb2.TokenizeResponse) -> t.Tokens:
    return t.Tokens(tuple(message.ids), tuple(message.pieces))


def _fields(message: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names}


def server_info(message: admin_pb2.ServerInfo) -> t.ServerInfo:
    def names(of: Any) -> list[str]:
        return [field.name for field in dataclasses.fields(of)]

    model = _fields(message.model, names(t.ModelInfo))
    for name in ("bos_token_id", "eos_token_id"):
        if model[name] < 0:
            model[name] = None
    return t.ServerInfo(
        version=message.version,
        state=message.state,
        device=message.device,
        precision=message.precision,
        model_fingerprint=message.model_fingerprint,
        numerics_fingerprint=message.numerics_fingerprint,
        uptime=message.uptime.ToTimedelta(),
        model=t.ModelInfo(**model),
        limits=t.Limits(**_fields(message.limits, names(t.Limits))),
        load=t.Load(**_fields(message.load, names(t.Load))),
    )
