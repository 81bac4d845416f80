"""Many turns at once with asyncio: the server runs them in one batch.

    python fan_out.py [--server HOST:PORT] [--turns N]
"""

import argparse
import asyncio
import time

from tttd_client import AsyncClient, Retry

parser = argparse.ArgumentParser()
parser.add_argument("--server", default="127.0.0.1:50051")
parser.add_argument("--turns", type=int, default=8)
args = parser.parse_args()


async def main() -> None:
    # A turn that finds the queue full waits as long as the server asks, or more.
    async with AsyncClient(args.server, retry=Retry(attempts=10)) as client:
        start = time.monotonic()
        turns = await asyncio.gather(
            *(
                client.complete("The house by the river", max_tokens=24, temperature=1.0, seed=seed)
                for seed in range(args.turns)
            )
        )
        seconds = time.monotonic() - start
    for turn in turns:
        print(f"{turn.seed}: {' '.join(turn.text.split())}")
    tokens = sum(turn.usage.output_tokens for turn in turns)
    print(f"{tokens} tokens in {seconds:.2f} s")


asyncio.run(main())
