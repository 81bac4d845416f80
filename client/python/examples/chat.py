"""A conversation in one session: each argument is a turn, streamed.

    python chat.py [--server HOST:PORT] "It was a cold evening" "By noon"
"""

import argparse

from tttd_client import Client, Sampling

parser = argparse.ArgumentParser()
parser.add_argument("--server", default="127.0.0.1:50051")
parser.add_argument("lines", nargs="*", default=["It was a cold evening", "By noon"])
args = parser.parse_args()

sampling = Sampling(max_tokens=40, temperature=0.8, top_p=0.9, seed=7)
with Client(args.server) as client, client.session() as session:
    for line in args.lines:
        print(f"\n> {line}")
        # Only the new words are sent: what was before is the session's state.
        stream = session.stream(f"\n\n{line}" if session.revision else line, sampling=sampling)
        for delta in stream:
            print(delta, end="", flush=True)
        turn = stream.result()
        print(f"\n[revision {turn.revision}, {turn.usage.session_tokens} tokens]")
