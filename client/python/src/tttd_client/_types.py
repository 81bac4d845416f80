"""What calls take and give."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Optional, TypedDict, Union

if TYPE_CHECKING:
    # Text, or token ids, or nothing: go on with a session that has tokens.
    Input = Union[str, Sequence[int], None]
else:
    Input = object


class FinishReason(enum.Enum):
    """Why a turn ended."""

    STOP = "stop"  # end-of-text, a stop token or a stop string
    LENGTH = "length"  # max_tokens
    CANCELLED = "cancelled"  # cancelled, and committed in part
    UNKNOWN = "unknown"  # a reason that is newer than this package


class OnCancel(enum.Enum):
    """What becomes of a turn that is cancelled or runs out of time."""

    ROLLBACK = "rollback"  # the session stays as it was
    COMMIT_PARTIAL = "commit_partial"  # what was read and generated is committed


class Tier(enum.Enum):
    """Where a session's state is."""

    RUNNING = "running"  # a turn is using it
    DEVICE = "device"
    HOST = "host"
    DISK = "disk"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; None is the server's default.

    The order is fixed: logit_bias, penalties, temperature, top_k, top_p, min_p,
    draw. Without a temperature the choice is greedy.
    """

    max_tokens: Optional[int] = None  # 256; 0 only reads the input
    temperature: Optional[float] = None
    top_k: Optional[int] = None
    top_p: Optional[float] = None
    min_p: Optional[float] = None
    seed: Optional[int] = None  # drawn by the server, and in the answer
    repetition_penalty: Optional[float] = None
    presence_penalty: Optional[float] = None
    frequency_penalty: Optional[float] = None
    logit_bias: Optional[Mapping[int, float]] = None


class CompleteOptions(TypedDict, total=False):
    """Keywords of complete and stream.

    `sampling` gives all sampling parameters at once; those that are given by
    name go before it.
    """

    sampling: Sampling
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    # The text ends before a stop string, the session's state after it.
    stop: Union[str, Sequence[str]]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    # Candidates reported a token; 0: the chosen token's log-probability alone.
    top_logprobs: int
    # Refused with RevisionMismatch if the session is at another revision.
    expected_revision: int
    on_cancel: OnCancel
    request_id: str  # for the caller's own tracing
    timeout: float  # seconds, of the whole call; math.inf: none


@dataclasses.dataclass(frozen=True)
class Candidate:
    token_id: int
    logprob: float  # natural logarithm, under the model's own distribution


@dataclasses.dataclass(frozen=True)
class Position:
    token_id: int
    logprob: Optional[float]
    top_logprobs: tuple[Candidate, ...]  # most probable first


@dataclasses.dataclass(frozen=True)
class Usage:
    input_tokens: int  # of this call, begin-of-text too
    reused_tokens: int
    output_tokens: int
    session_tokens: int  # after the commit; 0 without a session


@dataclasses.dataclass(frozen=True)
class Timing:
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


@dataclasses.dataclass(frozen=True)
class Delta:
    """What a stream has gained. `str(delta)` is its text."""

    text: str  # may lag behind the ids
    token_ids: tuple[int, ...]
    index: int  # of the first id among this turn's generated tokens
    logprobs: tuple[Position, ...]

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class Completion:
    """A turn that has ended. `str(completion)` is its text."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    matched_stop: Optional[str]  # the stop string that matched, if one did
    seed: int
    usage: Usage
    timing: Timing
    logprobs: tuple[Position, ...]  # one a token, if top_logprobs was given
    turn_id: str
    # The rest is None without a session.
    session_id: Optional[str]
    revision: Optional[int]  # after the commit
    state_digest: Optional[bytes]

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class Score:
    """Log-probabilities of given tokens.

    positions[p].token_id is input token p, and positions[p].logprob the
    log-probability of input token p + 1 after it; the last has none. `first` is
    the prediction of input token 0, if the session had tokens.
    """

    positions: tuple[Position, ...]
    first: Optional[Position]
    usage: Usage

    @property
    def total_logprob(self) -> float:
        """Of all the tokens that were predicted."""
        first = () if self.first is None else (self.first,)
        every = (position.logprob for position in (*first, *self.positions))
        return math.fsum(logprob for logprob in every if logprob is not None)


@dataclasses.dataclass(frozen=True)
class SessionInfo:
    session_id: str
    revision: int  # 0 is empty; grows by one a commit
    tokens: int  # read and generated, over all turns
    model_fingerprint: str
    tier: Tier
    state_bytes: int
    state_digest: bytes  # of the last commit; empty at revision 0
    parent_session_id: Optional[str]  # of a fork
    create_time: Optional[datetime.datetime]
    last_used_time: Optional[datetime.datetime]
    expire_time: Optional[datetime.datetime]  # None: never


@dataclasses.dataclass(frozen=True)
class Tokens:
    ids: tuple[int, ...]
    pieces: tuple[str, ...]  # as in the vocabulary, one an id


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    name: str
    ttt_layer_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    mini_batch_size: int
    parameters: int
    has_tokenizer: bool
    bos_token_id: Optional[int]
    eos_token_id: Optional[int]


@dataclasses.dataclass(frozen=True)
class Limits:
    max_batch_rows: int
    max_batch_tokens: int
    max_input_tokens: int
    max_queue: int
    max_top_logprobs: int
    state_slots: int
    state_bytes_per_session: int


@dataclasses.dataclass(frozen=True)
class Load:
    running_turns: int
    queued_turns: int
    sessions: int
    state_slots_used: int


@dataclasses.dataclass(frozen=True)
class ServerInfo:
    version: str
    state: str  # starting, serving, draining
    device: str
    precision: str
    model_fingerprint: str
    numerics_fingerprint: str
    uptime: datetime.timedelta
    model: ModelInfo
    limits: Limits
    load: Load
