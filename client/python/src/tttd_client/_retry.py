"""When to make a call again."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from typing import Optional

from tttd_client._arguments import checked_timeout, not_negative, refused
from tttd_client._errors import SessionBusy, TttError

# How long a session may take to be free after a turn of this client broke off,
# and the first wait for it.
SETTLE_SECONDS = 5.0
_SETTLE_BASE_SECONDS = 0.005
_SETTLE_MAX_SECONDS = 0.1

# The most that the deletion at the end of a `with` may take.
_DELETE_SECONDS = 10.0

# More than these gRPC may take for a deadline that has passed.
_MAX_TIMEOUT_SECONDS = 1e9

_MAX_DOUBLINGS = 1000  # A float holds 2.0 ** 1023.


@dataclasses.dataclass(frozen=True)
class Retry:
    """Calls that the server refused at the door are made again.

    Never one that was under way: such a call may have been committed. The wait
    is the server's hint, and on top of it a random part of a time that doubles
    from `base_seconds` to `max_seconds`. A call whose timeout would end before
    the wait fails at once. TypeError, ValueError: an argument is no number, or is
    below 0.
    """

    attempts: int = 5  # the first one too
    base_seconds: float = 0.1
    max_seconds: float = 5.0

    def __post_init__(self) -> None:
        not_negative("attempts", self.attempts, "a number, 0 or more")
        not_negative("base_seconds", self.base_seconds)
        not_negative("max_seconds", self.max_seconds)

    def delay(self, attempt: int, error: TttError) -> Optional[float]:
        """Seconds to wait after the failure of attempt 1, 2, ...; None: give up."""
        if attempt >= self.attempts or not error.was_refused:
            return None
        doubled = 2.0 ** min(attempt - 1, _MAX_DOUBLINGS)
        backoff = min(self.max_seconds, self.base_seconds * doubled)
        return (error.retry_after or 0.0) + random.uniform(0.0, backoff)


def checked_retry(retry: Optional[Retry]) -> Optional[Retry]:
    """The policy. TypeError: it is none."""
    if retry is not None and not isinstance(retry, Retry):
        raise refused(TypeError, "retry", retry, "a Retry")
    return retry


class Deadline:
    """The end of the time that calls have together; no timeout: there is none.

    TypeError, ValueError: the timeout is no number, or is below 0.
    """

    def __init__(self, timeout: Optional[float]) -> None:
        timeout = checked_timeout(timeout)
        self._at = math.inf if timeout is None else time.monotonic() + timeout

    def remaining(self) -> float:
        """Seconds; math.inf: there is no deadline."""
        return max(0.0, self._at - time.monotonic())


def delete_seconds(timeout: Optional[float]) -> float:
    """The timeout of the deletion at the end of a `with`; `timeout`: the client's."""
    return _DELETE_SECONDS if timeout is None else min(_DELETE_SECONDS, timeout)


class Attempts:
    """The attempts of one call."""

    def __init__(
        self, retry: Optional[Retry], timeout: Optional[float], settled_at: float = 0.0
    ) -> None:
        self._retry = retry
        self._settled_at = settled_at
        self._attempt = 0
        self._settling = 0
        self._deadline = Deadline(timeout)

    def remaining(self) -> Optional[float]:
        """Seconds until the deadline, if there is one, as gRPC takes them."""
        remaining = self._deadline.remaining()
        return None if remaining > _MAX_TIMEOUT_SECONDS else remaining

    def delay(self, error: TttError) -> Optional[float]:
        """Seconds until the next attempt; None: there is none."""
        delay = self._next(error)
        if delay is None or delay >= self._deadline.remaining():
            return None
        return delay

    def _next(self, error: TttError) -> Optional[float]:
        if isinstance(error, SessionBusy) and time.monotonic() < self._settled_at:
            self._settling += 1
            return min(_SETTLE_MAX_SECONDS, _SETTLE_BASE_SECONDS * 2.0**self._settling)
        self._attempt += 1
        return None if self._retry is None else self._retry.delay(self._attempt, error)
