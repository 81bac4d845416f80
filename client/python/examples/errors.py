"""What to do about each failure.

    python errors.py [--server HOST:PORT]
"""

import argparse
from typing import Optional

from tttd_client import (
    Client,
    Completion,
    Overloaded,
    Retry,
    RevisionMismatch,
    Session,
    SessionNotFound,
    TttError,
    Unavailable,
)

parser = argparse.ArgumentParser()
parser.add_argument("--server", default="127.0.0.1:50051")
args = parser.parse_args()


def careful_turn(session: Session, text: str, revision: int) -> Optional[Completion]:
    """Adds a turn to the session once, whatever happens on the way."""
    try:
        return session.complete(text, max_tokens=8, expected_revision=revision, timeout=30)
    except Overloaded as error:
        # Retry has tried for as long as it may; the server says when to come back.
        print(f"full; come back in {error.retry_after} s")
    except RevisionMismatch:
        print(f"somebody else has spoken: revision {session.info().revision}, not {revision}")
    except Unavailable as error:
        if error.was_refused:
            print("starting or draining; ask another server")
        else:
            # The connection broke, perhaps after the commit. `expected_revision`
            # makes the same call safe: a turn is not added twice.
            print("connection lost; connect, and make the same call again")
    except TttError as error:
        print(f"{type(error).__name__}: {error}")
    return None


with Client(args.server, retry=Retry(attempts=5)) as client:
    with client.session() as session:
        turn = careful_turn(session, "The morning was cold, and", 0)
        print(f"first: revision {turn.revision if turn else None}")
        careful_turn(session, " the same again", 0)
        careful_turn(session, "x" * (17 << 20), 1)
    try:
        session.info()
    except SessionNotFound as error:
        print(f"{type(error).__name__}: gone with its block")
