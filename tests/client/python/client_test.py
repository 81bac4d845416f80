"""Every call of the package against a real daemon, for threads and for asyncio.

A test that takes `make_client` is written once, as a coroutine. For the client
for threads, whose calls return what AsyncClient's return when awaited, a thin
cover turns results into awaitables.
"""

import asyncio
import datetime
import inspect
import math

import grpc
import pytest
import tttd_client
from tttd_client import FinishReason, OnCancel, Sampling, Tier

PROMPT = "It was a cold evening in November when"


class Awaited:
    """An object of the client for threads, as if it were for asyncio."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def call(*args, **named):
            if name in ("session", "stream", "list_sessions", "close"):
                return cover(value(*args, **named))

            async def run():
                return cover(value(*args, **named))

            return run()

        return call

    async def __aenter__(self):
        return cover(self._inner.__enter__())

    async def __aexit__(self, *exception):
        return self._inner.__exit__(*exception)

    def __aiter__(self):
        return self

    async def __anext__(self):
        try:
            return next(self._inner)
        except StopIteration:
            raise StopAsyncIteration from None


def cover(value):
    is_ours = isinstance(value, (tttd_client.Client, tttd_client.Session, tttd_client.Stream))
    return Awaited(value) if is_ours or inspect.isgenerator(value) else value


def sync_client(address, **options):
    return Awaited(tttd_client.Client(address, **options))


@pytest.fixture(params=[sync_client, tttd_client.AsyncClient], ids=["sync", "async"])
def make_client(request):
    return request.param


@pytest.fixture
def run(make_client, address):
    """Runs a coroutine function with a client."""

    def run(body, **options):
        async def main():
            async with make_client(address, **options) as client:
                return await body(client)

        return asyncio.run(main())

    return run


async def collect(stream):
    return [item async for item in stream]


async def no_sessions(client):
    return await collect(client.list_sessions()) == []


def test_completion_tells_all_of_its_turn(run):
    async def body(client):
        turn = await client.complete(PROMPT, max_tokens=8, temperature=0.8, seed=7)
        assert turn.text and str(turn) == turn.text
        assert len(turn.token_ids) == 8
        assert turn.finish_reason is FinishReason.LENGTH
        assert turn.seed == 7
        assert turn.usage.output_tokens == 8
        assert turn.timing.decode_seconds > 0
        assert turn.turn_id
        assert (turn.session_id, turn.revision, turn.state_digest) == (None, None, None)

    run(body)


def test_stream_gives_what_complete_gives(run):
    async def body(client):
        options = dict(max_tokens=12, temperature=0.9, seed=3, top_logprobs=2)
        whole = await client.complete(PROMPT, **options)
        stream = client.stream(PROMPT, **options)
        deltas = await collect(stream)
        turn = await stream.result()
        assert "".join(map(str, deltas)) == turn.text == stream.text == whole.text
        assert sum((d.token_ids for d in deltas), ()) == turn.token_ids == whole.token_ids
        assert sum((d.logprobs for d in deltas), ()) == turn.logprobs == whole.logprobs
        assert [d.index for d in deltas][0] == 0
        assert (turn.seed, turn.usage, turn.finish_reason) == (3, whole.usage, whole.finish_reason)
        assert stream.turn_id == turn.turn_id
        assert len(turn.logprobs[0].top_logprobs) == 2

    run(body)


def test_result_reads_what_was_not_iterated(run):
    async def body(client):
        turn = await client.stream(PROMPT, max_tokens=5).result()
        assert len(turn.token_ids) == 5

    run(body)


def test_sampling_is_given_as_one_or_by_name(run):
    async def body(client):
        sampling = Sampling(max_tokens=6, temperature=1.0, top_k=50, top_p=0.9, min_p=0.01, seed=1)
        as_one = await client.complete(PROMPT, sampling=sampling)
        by_name = await client.complete(
            PROMPT, max_tokens=6, temperature=1.0, top_k=50, top_p=0.9, min_p=0.01, seed=1
        )
        assert as_one.token_ids == by_name.token_ids
        shorter = await client.complete(PROMPT, sampling=sampling, max_tokens=2)
        assert shorter.token_ids == as_one.token_ids[:2]
        forced = await client.complete(PROMPT, max_tokens=3, logit_bias={77: 100.0})
        assert forced.token_ids == (77, 77, 77)
        penalised = await client.complete(
            PROMPT, max_tokens=3, logit_bias={77: 100.0}, presence_penalty=100.0,
            frequency_penalty=1.0, repetition_penalty=2.0,
        )
        assert penalised.token_ids.count(77) < 3

    run(body)


def test_stops_end_the_text(run):
    async def body(client):
        whole = await client.complete(PROMPT, max_tokens=20, ignore_eos=True)
        word = whole.text.split()[3]
        turn = await client.complete(PROMPT, max_tokens=20, stop=word, ignore_eos=True)
        assert turn.finish_reason is FinishReason.STOP
        assert turn.matched_stop == word
        assert turn.text == whole.text[: whole.text.index(word)]
        by_id = await client.complete(
            PROMPT, max_tokens=20, stop_token_ids=[whole.token_ids[2]], ignore_eos=True
        )
        assert by_id.token_ids == whole.token_ids[:3]

    run(body)


def test_token_ids_are_input_as_well_as_text(run):
    async def body(client):
        tokens = await client.tokenize(PROMPT, at_start=True)
        assert len(tokens.ids) == len(tokens.pieces)
        by_ids = await client.complete(tokens.ids, max_tokens=5)
        by_text = await client.complete(PROMPT, max_tokens=5)
        assert by_ids.token_ids == by_text.token_ids
        assert await client.detokenize(tokens.ids) == PROMPT

    run(body)


def test_bytes_and_unknown_keywords_are_type_errors(run):
    async def body(client):
        with pytest.raises(TypeError, match="input is b'text': must be text as str"):
            await client.complete(b"text")
        with pytest.raises(TypeError, match="temprature"):
            await client.complete(PROMPT, temprature=1.0)

    run(body)


def test_session_goes_on_where_it_was(run):
    async def body(client):
        async with client.session("walk", create=True) as session:
            first = await session.complete(PROMPT, max_tokens=4)
            assert (first.session_id, first.revision, session.revision) == ("walk", 1, 1)
            assert len(first.state_digest) == 32
            second = await session.stream(" By noon", max_tokens=4).result()
            assert second.revision == session.revision == 2
            went_on = await session.complete(max_tokens=1)
            assert went_on.usage.input_tokens == 0
            info = await session.info()
            assert (info.revision, info.tokens) == (3, went_on.usage.session_tokens)
            assert info.state_digest == went_on.state_digest
        again = client.session("walk")  # It stays after its block.
        assert (await again.info()).revision == 3
        await again.delete()
        assert await no_sessions(client)

    run(body)


def test_existing_session_is_taken_up_with_create(run):
    async def body(client):
        await client.create_session("taken")
        async with client.session("taken", create=True) as session:
            await session.complete("x", max_tokens=1)
        assert (await client.get_session("taken")).revision == 1
        await client.delete_session("taken")

    run(body)


def test_session_without_a_name_lives_as_long_as_its_block(run):
    async def body(client):
        async with client.session() as session:
            assert session.id
            await session.complete("x", max_tokens=1)
            assert [s.session_id async for s in client.list_sessions()] == [session.id]
            async with await session.fork() as fork:
                assert (await fork.info()).parent_session_id == session.id
                await fork.complete(" y", max_tokens=1)
                assert (fork.revision, session.revision) == (2, 1)
        assert await no_sessions(client)

    run(body)


def test_session_is_deleted_when_its_block_raises_in_a_stream(run):
    async def body(client):
        with pytest.raises(ZeroDivisionError):
            async with client.session() as session:
                async for _ in session.stream(PROMPT, max_tokens=100000, ignore_eos=True):
                    raise ZeroDivisionError
        assert await no_sessions(client)

    run(body)


def test_stream_closed_early_leaves_the_session_unchanged(run):
    async def body(client):
        async with client.session() as session:
            await session.complete(PROMPT, max_tokens=4)
            before = await session.info()

            async with session.stream(" and", max_tokens=100000, ignore_eos=True) as stream:
                async for _ in stream:
                    break
            with pytest.raises(tttd_client.Cancelled):
                await stream.result()

            async for _ in session.stream(" and", max_tokens=100000, ignore_eos=True):
                break  # and dropped

            # Not refused, although the server may not have rolled back yet.
            turn = await session.complete(max_tokens=1)
            after = await session.info()
            assert turn.revision == after.revision == before.revision + 1
            assert after.tokens == before.tokens + 1

    run(body)


def test_cancelled_turn_is_committed_in_part_when_asked(run):
    async def body(client):
        async with client.session() as session:
            async with session.stream(
                PROMPT, max_tokens=100000, ignore_eos=True, on_cancel=OnCancel.COMMIT_PARTIAL
            ) as stream:
                async for _ in stream:
                    break
            turn = await session.complete(max_tokens=1)
            assert turn.revision == 2

    run(body)


def test_sessions_are_listed_page_by_page(run):
    async def body(client):
        ids = [f"s{i}" for i in range(5)]
        for session_id in ids:
            info = await client.create_session(session_id, ttl=3600)
            assert info.revision == 0 and info.tier is not Tier.UNKNOWN
            assert info.expire_time - info.create_time == datetime.timedelta(hours=1)
        assert [s.session_id async for s in client.list_sessions(page_size=2)] == ids
        await client.fork_session("s0", "fork", ttl=datetime.timedelta(minutes=1))
        assert (await client.get_session("fork")).parent_session_id == "s0"
        for session_id in [*ids, "fork"]:
            await client.delete_session(session_id)
        assert await no_sessions(client)

    run(body)


def test_score_is_of_the_session_and_commits_nothing(run):
    async def body(client):
        alone = await client.score(PROMPT, top_logprobs=1)
        assert alone.first is None and alone.positions[-1].logprob is None
        assert len(alone.positions[-1].top_logprobs) == 1
        assert math.isclose(
            alone.total_logprob, sum(p.logprob for p in alone.positions[:-1]), rel_tol=1e-6
        )
        async with client.session() as session:
            await session.complete(PROMPT, max_tokens=0)
            scored = await session.score(" the")
            assert scored.first is not None and scored.first.logprob < 0
            assert (await session.info()).revision == 1

    run(body)


def test_answer_beyond_four_mebibytes_is_taken(run, address):
    async def body(client):
        ids = (await client.tokenize(PROMPT, at_start=True)).ids
        many = (ids * 2400)[:24000]
        score = await client.score(many, top_logprobs=20)
        assert len(score.positions) == 24000
        if isinstance(client, Awaited):  # gRPC's own limit would not have taken it.
            with tttd_client.Client(channel=grpc.insecure_channel(address)) as limited:
                with pytest.raises(tttd_client.InvalidRequest, match="larger than max"):
                    limited.score(many, top_logprobs=20)

    run(body)


def test_server_tells_of_itself(run):
    async def body(client):
        info = await client.server_info()
        assert info.state == "serving"
        assert info.model.name == "ttt-linear-14m-books"
        assert info.model.has_tokenizer and info.model.bos_token_id is not None
        assert info.limits.max_top_logprobs == 20
        assert info.load.running_turns == 0
        assert info.uptime > datetime.timedelta()
        assert await client.health() is True
        assert await client.health("ttt.v1.Inference") is True

    run(body)


def test_calls_run_side_by_side(run):
    async def body(client):
        if isinstance(client, Awaited):
            pytest.skip("one thread")
        turns = await asyncio.gather(
            *(client.complete(PROMPT, max_tokens=4, seed=i, temperature=1.0) for i in range(8))
        )
        assert [turn.seed for turn in turns] == list(range(8))

    run(body)
