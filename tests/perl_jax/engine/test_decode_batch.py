"""The host side of a decoding batch: slots, pages and shapes, against a device that is made up here."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perl_jax.engine import decode_batch
from perl_jax.engine.decode_batch import DecodeBatch, Segment, followers, ladder, no_slots, shapes
from perl_jax.engine.pages import page, pages_of


class Device:
    """Decodes nothing, but knows what its places hold: for a stream's token (prompt, rollout, number)."""

    def __init__(self, batch, shards, ends):
        self.batch, self.shards, self.ends, self.steps = batch, shards, ends, 0
        rung = batch.rung
        self.prompts = np.full((shards, rung.prompt_pages), -1)  # the number of the prompt of each page
        self.recent = np.full((shards, rung.slots, batch.recent, 3), -1)
        self.pages = np.full((shards, rung.pages, page(), 3), -1)

    def move(self, moves):
        rung = self.batch.rung
        sources = np.concatenate([self.pages, self.recent], axis=1) if moves.full else self.pages
        self.pages = self._chosen(sources, moves.pages)
        if moves.prompt_pages is not None:
            self.prompts = self._chosen(self.prompts, moves.prompt_pages)
        if moves.slots is not None:
            self.recent = self._chosen(self.recent, moves.slots)
        assert self.pages.shape[1] == rung.pages and self.prompts.shape[1] == rung.prompt_pages
        assert self.recent.shape[1] == rung.slots

    def _chosen(self, values, index):
        index = index.reshape(self.shards, -1)
        return np.stack(
            [
                of_shard[i] if len(of_shard) else np.full((len(i), *values.shape[2:]), -1)
                for of_shard, i in zip(values, index)
            ]
        )

    def decode(self, cached):
        """One segment: checks that each stream sees its prompt and its own tokens, each once and in order."""
        batch, rung = self.batch, self.batch.rung
        slots = batch.slots(np.zeros(len(cached), np.int32), np.arange(len(cached), dtype=np.uint32))
        most, total = batch.limits()
        shape = self.shards, rung.slots
        ids, rollouts, drawn, done = (
            np.array(x).reshape(shape) for x in (slots.ids, slots.rollouts, slots.drawn, slots.done)
        )
        self._check(slots, ids, rollouts, drawn, done, cached)
        lengths, at = np.zeros(shape, np.int32), batch.at
        while at < batch.recent and (~done).sum(1).max() > most and (~done).sum() > total:
            for shard, slot in zip(*np.nonzero(~done)):
                stream = int(ids[shard, slot]), int(rollouts[shard, slot])
                self.recent[shard, slot, at] = *stream, drawn[shard, slot] + lengths[shard, slot]
                lengths[shard, slot] += 1
                done[shard, slot] = drawn[shard, slot] + lengths[shard, slot] >= self.ends[stream]
            at += 1
            self.steps += 1
        tokens = np.zeros((*shape, batch.recent), np.int32)
        for shard, slot in np.ndindex(shape):
            tokens[shard, slot, : lengths[shard, slot]] = drawn[shard, slot] + np.arange(lengths[shard, slot])
        values = [x.reshape(-1, *x.shape[2:]) for x in (tokens, tokens * 1.0, tokens * 2.0, lengths, done)]
        batch.add(Segment(*values), at)

    def _check(self, slots, ids, rollouts, drawn, done, cached):
        rung, batch = self.batch.rung, self.batch
        places, streams = (np.array(x).reshape(self.shards, -1) for x in (slots.places, slots.streams))
        prompt_pages, own = (
            [np.array(x).reshape(self.shards, -1) for x in pages] for pages in (slots.prompt_pages, slots.pages)
        )
        begin = np.array(slots.begin).reshape(ids.shape)
        for shard, slot in zip(*np.nonzero(~done)):
            assert streams[shard, places[shard, slot]] == slot
            row, prompt = places[shard, slot] // rung.width, int(ids[shard, slot])
            read = (prompt_pages[0][shard] == row) & (prompt_pages[2][shard] > 0)
            assert (self.prompts[shard, read] == prompt).all()
            assert (prompt_pages[2] - prompt_pages[1])[shard, read].sum() == cached[prompt]
            seen = [self.recent[shard, slot, begin[shard, slot] : batch.at]]
            for number in np.flatnonzero((own[0][shard] == slot) & (own[2][shard] > own[1][shard])):
                seen.append(self.pages[shard, number, own[1][shard, number] : own[2][shard, number]])
            seen = sorted(map(tuple, np.concatenate(seen).tolist()))
            assert seen == [(prompt, int(rollouts[shard, slot]), t) for t in range(drawn[shard, slot])]


def run(lengths, ends, longest, shards, at_once, run_lengths=()):
    """Decodes all to the end; returns (rollouts, steps, slots of a shard, shapes seen)."""
    prompts, samples = [[7] * length for length in lengths], ends.shape[1]
    made_for, refills = list(run_lengths) or lengths, len(lengths) > at_once
    of = shapes(made_for, at_once, samples, longest, shards, refills, not run_lengths)
    told = []
    batch = DecodeBatch(prompts, samples, longest, shards, of, lambda n, g, tokens: told.append((n, g, len(tokens))))
    device, cached, seen = Device(batch, shards, np.minimum(ends, longest)), np.array(lengths) - 1, [batch.rung]
    while batch.waiting or any(batch.live):
        before, full = batch.rung, batch.at == batch.recent
        while moves := batch.fit():
            device.move(moves)
            assert batch.rung in followers(batch.rungs, before, full) + followers(batch.rungs, before, None)
            before, full = batch.rung, False
        admitted, before = batch.admit(), batch.rung
        if moves := batch.fit(admitted):
            device.move(moves)
            assert batch.rung in followers(batch.rungs, before, False) + followers(batch.rungs, before, None)
        batch.allocate(admitted)
        for shard, row in admitted:
            device.prompts[shard, row.pages] = row.prompt
        before = device.steps
        device.decode(cached)
        assert device.steps > before, "each segment draws a token"
        seen.append(batch.rung)
    out = batch.result(pad_id=-1)
    assert sorted(told) == [(n, g, out.lengths[n, g]) for n, g in np.ndindex(out.lengths.shape)]
    return out, device.steps, of.rungs[0].slots, seen


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_each_stream_sees_its_own_and_all_end(data):
    """Whatever the lengths, and wherever the streams go."""
    count, samples = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    lengths = data.draw(st.lists(st.integers(1, 150), min_size=count, max_size=count))
    longest, shards = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 3))
    at_once = data.draw(st.integers(1, count))
    skewed = st.one_of(st.integers(1, 8), st.integers(1, 220))
    ends = np.array(data.draw(st.lists(skewed, min_size=count * samples, max_size=count * samples)))
    of_run = data.draw(st.sampled_from([(), [1, 150], [*lengths, 150, 1, 1, 1]]))
    out, *_ = run(lengths, ends.reshape(count, samples), longest, shards, at_once, of_run)
    np.testing.assert_array_equal(out.lengths, np.minimum(ends, longest).reshape(count, samples))
    for n, g in np.ndindex(out.lengths.shape):
        tokens = np.arange(out.lengths[n, g])
        np.testing.assert_array_equal(out.tokens[n, g, : len(tokens)], tokens)
        np.testing.assert_array_equal(out.sample_logprobs[n, g, : len(tokens)], 2.0 * tokens)
        assert (out.tokens[n, g, len(tokens) :] == -1).all()


def test_slots_are_refilled():
    """Sixteen batches of geometric lengths: few more steps than if all slots were always full."""
    rng = np.random.default_rng(0)
    ends = np.minimum(rng.geometric(1 / 60, (128, 8)), 240)
    out, steps, slots, seen = run([90] * 128, ends, 240, 1, 8)
    assert slots == 64 and out.lengths.sum() == ends.sum()
    drained = ends.reshape(16, -1).max(1).sum()
    assert steps < 1.25 * ends.sum() / slots < 0.5 * drained
    assert min(rung.slots for rung in seen) < slots


def test_shards_are_refilled_alike():
    rng = np.random.default_rng(0)
    ends = np.minimum(rng.geometric(1 / 60, (128, 8)), 240)
    _, steps, slots, _ = run([90] * 128, ends, 240, 4, 16)
    assert slots == 32 and steps < 1.5 * ends.sum() / (4 * slots)


@pytest.mark.parametrize("refills", [False, True])
@given(slots=st.integers(1, 60), width=st.integers(1, 16), pages=st.integers(0, 40), prompt_pages=st.integers(1, 9))
def test_shapes_are_few(refills, slots, width, pages, prompt_pages):
    rungs = ladder(slots * width, width, slots, slots * prompt_pages, prompt_pages, pages, refills)
    assert len(rungs) <= 8 and len(rungs) == len(set(rungs))
    assert max(rung.pages for rung in rungs if rung.slots == slots * width) == pages * slots * width
    assert all(rung.prompt_pages >= prompt_pages for rung in rungs)
    assert all(rung.pages <= pages * rung.slots for rung in rungs)


def test_shapes_follow_the_tokens_of_a_batch():
    """Not its longest prompt times their number."""
    mixed = shapes([40] * 20 + [2000], 21, 8, 64, 1, False, True)
    assert mixed.rungs[0].prompt_pages < 2 * (20 * pages_of(39) + pages_of(1999))
    run_of = shapes([400] * 5000 + [8192], 128, 8, 2048, 8, False, False)
    assert run_of.rungs[0].prompt_pages <= 1.3 * pages_of(8191), "the longest finds room"
    assert len(run_of.rungs) <= 8


def test_free_slots_are_done():
    slots = no_slots(ladder(4, 2, 2, 2, 1, 3, False)[0], 3)
    assert slots.done.all() and slots.done.shape == (12,) and slots.streams.shape == (6, 2)


def test_a_prompt_without_room_waits_its_turn():
    """The run's usual prompts are short: two long ones at a time have no room."""
    ends = np.full((4, 2), 3)
    out, _, _, _ = run([640, 640, 640, 640], ends, 40, 1, 4, [32] * 100 + [640])
    assert (out.lengths == 3).all()
    assert decode_batch.KEPT > 1
