"""Several ends of one beginning, which is read once.

    python fork.py [--server HOST:PORT] [--forks N]
"""

import argparse

from tttd_client import Client

parser = argparse.ArgumentParser()
parser.add_argument("--server", default="127.0.0.1:50051")
parser.add_argument("--forks", type=int, default=3)
args = parser.parse_args()

with Client(args.server) as client, client.session() as session:
    # Reads the text and generates nothing.
    beginning = session.complete(
        "It was a cold evening in November when Mr. Harding came home", max_tokens=0
    )
    print(f"read {beginning.usage.input_tokens} tokens")
    for seed in range(args.forks):
        with session.fork() as fork:
            turn = fork.complete(max_tokens=24, temperature=0.9, seed=seed)
            print(f"{seed}: {' '.join(turn.text.split())}")
    print(f"the session is still at revision {session.info().revision}")
