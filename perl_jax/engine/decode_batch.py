"""Host side of a decoding batch: which stream is in which slot, who reads which page, and the tokens decoded so far.

A shard has a fixed number of slots, one for each stream that it decodes at a time. When streams have ended, waiting
prompts take their place, all rollouts of a prompt at once. When none waits, the live streams move to fewer slots. The
shapes that a batch can have (`ladder`) are few.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from models.packing import bucket
from perl_jax.engine.pages import Pages, page, pages_of

UNPAGED = 64  # tokens of responses that need no pages
FEWEST = 8  # streams of the smallest batch
SOME, KEPT = 2, 3  # prompts for each one of which all streams are live: of most only the longest responses are left

Finished = Callable[[int, int, np.ndarray], None]


class Rollouts(NamedTuple):
    """N prompts x G rollouts; R is the longest response. Past a response's length: the pad id and log-prob 0."""

    tokens: np.ndarray  # int32 [N, G, R], the EOS included
    logprobs: np.ndarray  # float32 [N, G, R]: log-softmax of the raw logits
    sample_logprobs: np.ndarray  # float32 [N, G, R]: under the sampling distribution
    lengths: np.ndarray  # int32 [N, G]


class Rung(NamedTuple):
    """The shapes of a decoding program, of one shard."""

    slots: int  # S
    rows: int  # N: prompts, or parts of a prompt's streams
    width: int  # G: streams of a row
    prompt_pages: int
    pages: int  # of streams


class Slots(NamedTuple):
    """What a decoding program is told of its S slots."""

    last: jax.Array  # int32 [S]: the newest token, of the prompt or drawn, that is not in the KV cache
    drawn: jax.Array  # int32 [S]: tokens drawn so far
    starts: jax.Array  # int32 [S]: the position of the first token after the prompt
    ids: jax.Array  # uint32 [S]: the prompt's id
    rollouts: jax.Array  # int32 [S]: the rollout's number
    begin: jax.Array  # int32 [S]: where in the recent tokens the stream begins
    done: jax.Array  # bool [S]: also free slots
    streams: jax.Array  # int32 [N, G]: the slots of each row; any where it has fewer
    places: jax.Array  # int32 [S]: the place of each slot among the [N * G]
    prompt_pages: Pages  # read by rows
    pages: Pages  # read by slots


class Segment(NamedTuple):
    """The tokens drawn in a segment, in places that begin with 0; arbitrary after a stream's end."""

    tokens: jax.Array  # int32 [S, T]
    logprobs: jax.Array  # float32 [S, T]
    sample_logprobs: jax.Array  # float32 [S, T]
    lengths: jax.Array  # int32 [S]: tokens of this segment
    done: jax.Array  # bool [S]


class Moves(NamedTuple):
    """From one shape to another: which slot and page of the old lies at each place of the new, within a shard."""

    full: bool  # the recent tokens become pages, which are counted after the old ones
    slots: np.ndarray | None  # int32, of all shards; None: all stay
    prompt_pages: np.ndarray | None
    pages: np.ndarray


@dataclasses.dataclass(eq=False)
class Row:
    """Streams of one prompt that read the same copy of its pages."""

    prompt: int
    count: int  # pages that the prompt takes
    pages: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Stream:
    """One rollout while it is decoded."""

    row: Row
    rollout: int
    last: int
    begin: int
    drawn: int = 0
    pages: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # (page, its first token of the stream)


def ladder(
    slots: int, width: int, prompts: int, prompt_pages: int, longest: int, pages: int, refills: bool
) -> list[Rung]:
    """At most 8 shapes, wide ones first, for `prompts` of `width` streams each.

    The `prompt_pages` are those of all prompts, `longest` those of one, and `pages` those of a stream, at most. The
    wide shapes have all `slots` and ever more pages. With `refills`, prompts of whom few streams are left are there
    beside the others, and streams of all ages take about the square root of their most pages on average. Where streams
    outlive the others, a third of the slots do, or a ninth, or fewer still. A batch without pages has one shape.
    """
    if not pages:
        return [Rung(slots, prompts, width, prompt_pages, 0)]
    half, third, two_thirds = (int(np.ceil(pages**power)) for power in (1 / 2, 1 / 3, 2 / 3))
    wide = [(1, 0), (1, half), (1, pages)]
    if refills:
        wide = [(1, 0), (SOME, third), (SOME, half), (KEPT, two_thirds), (KEPT, pages)]
    rungs = [Rung(slots, kept * prompts, width, kept * prompt_pages, share * slots) for kept, share in wide]
    for part in (3, 9, 27):
        shares = [pages] if refills or part == 27 else [half, pages]
        fewer, narrow = max(-(-slots // part), min(FEWEST, slots)), -(-width // part)
        if fewer < rungs[-1].slots:
            rows = min(fewer, 2 * -(-fewer // narrow))
            kept = min(max(longest, rows * -(-prompt_pages // prompts)), rungs[-1].prompt_pages)
            rungs += [Rung(fewer, rows, narrow, kept, share * fewer) for share in shares]
    return list(dict.fromkeys(rungs))


class Shapes(NamedTuple):
    """The possible shapes of a run's batches, of one shard."""

    rungs: list[Rung]
    recent: int  # tokens that streams hold beside their pages


def followers(rungs: Sequence[Rung], rung: Rung, full: bool | None) -> list[Rung]:
    """The shapes that may follow on one: when the recent tokens are `full`, when not, or (None) with fewer slots."""
    same = [other for other in rungs if other.slots == rung.slots]
    if full is None:
        fewer = max((other.slots for other in rungs if other.slots < rung.slots), default=0)
        return [other for other in rungs if other.slots == fewer]
    if not full:
        return [other for other in same if other.prompt_pages >= rung.prompt_pages and other.pages >= rung.pages]
    pages = sorted({other.pages for other in same})
    return [other for other in same if abs(pages.index(other.pages) - pages.index(rung.pages)) <= 1]


def shapes(
    lengths: Sequence[int], at_once: int, samples: int, longest: int, shards: int, refills: bool, of_call: bool
) -> Shapes:
    """The shapes for responses of `longest` tokens, `samples` each to prompts of `lengths`, `at_once` at a time.

    The lengths are those `of_call`, or of a run, each call of which may have any of them, also again and again. Then
    the pages are enough for any, or for most where that takes half of them: a prompt that finds no page waits. With
    `refills` others wait at first.
    """
    share, counts = -(-at_once // shards), sorted((pages_of(length - 1) for length in lengths), reverse=True)
    most = spread(counts[: share * shards], shards, share) if of_call else share * counts[0]
    usual = int(np.ceil(np.mean(counts) * share + 2 * np.std(counts) * share**0.5))
    if not of_call and most > 2 * usual:
        most, refills = max(usual, counts[0]), True
    prompt_pages = bucket(most, least=8, between=1) if of_call else max(most, 1)  # few shapes, whatever the calls
    widest = share * samples, samples, share, prompt_pages, counts[0]
    if longest <= UNPAGED and not refills:
        return Shapes(ladder(*widest, 0, refills), longest)
    return Shapes(ladder(*widest, -(-longest // page()) - (not refills), refills), page())


def spread(pages: Iterable[int], shards: int, most: int) -> int:
    """Pages of the fullest shard if prompts of so many `pages` each are spread, at most `most` on a shard."""
    loads = [(0, 0)] * shards  # (pages, prompts)
    for count in sorted(map(int, pages), reverse=True):
        at = min((shard for shard in range(shards) if loads[shard][1] < most), key=lambda shard: loads[shard])
        loads[at] = loads[at][0] + count, loads[at][1] + 1
    return max(loads)[0]


class DecodeBatch:
    """The streams of one call: of `prompts` (their token ids), `samples` each, of at most `longest` tokens.

    `finished` is as in `rollout.generate`.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        samples: int,
        longest: int,
        shards: int,
        shapes: Shapes,
        finished: Finished | None,
    ):
        self.prompts, self.samples, self._finished = prompts, samples, finished
        self._cached = np.array([len(ids) - 1 for ids in prompts])  # tokens in pages: the last is the first decoded
        self.rungs, self.recent = shapes
        self.rung, self.at, self.waiting = self.rungs[0], 0, deque(range(len(prompts)))
        self._shards: list[list[Stream | None]] = [[None] * self.rung.slots for _ in range(shards)]
        shape = len(prompts) * samples, longest
        self._values = [np.zeros(shape, dtype) for dtype in (np.int32, np.float32, np.float32)]
        self._counts = np.zeros(shape[0], np.int32)

    @property
    def live(self) -> list[int]:
        """The number of live streams of each shard."""
        return [sum(stream is not None for stream in slots) for slots in self._shards]

    def admit(self) -> list[tuple[int, Row]]:
        """Gives free slots to waiting prompts, in order but for those without room: [(shard, its row)].

        The rows have no pages yet.
        """
        if self.rung.slots * len(self._shards) - sum(self.live) < self._refill():
            return []
        room = [(slots.count(None) // self.samples, *self._prompt_pages(slots)) for slots in self._shards]
        most = max(self.rungs, key=lambda rung: rung.prompt_pages)
        chosen = [self.waiting.popleft() for _ in range(min(sum(free for free, *_ in room), len(self.waiting)))]
        admitted, left = [], []
        for prompt in sorted(chosen, key=lambda prompt: (-self._cached[prompt], prompt)):
            count = pages_of(self._cached[prompt])
            fits = [
                (used, rows, shard)
                for shard, (free, used, rows) in enumerate(room)
                if free and used + count <= most.prompt_pages and rows < most.rows
            ]
            if not fits:
                left.append(prompt)
                continue
            used, rows, shard = min(fits)  # that with the fewest prompt pages
            room[shard] = room[shard][0] - 1, used + count, rows + 1
            slots, row = self._shards[shard], Row(prompt, count)
            places = itertools.islice((place for place, stream in enumerate(slots) if stream is None), self.samples)
            for rollout, place in enumerate(list(places)):
                slots[place] = Stream(row, rollout, int(self.prompts[prompt][-1]), self.at)
            admitted.append((shard, row))
        self.waiting.extendleft(sorted(left, reverse=True))
        return admitted

    def _refill(self) -> int:
        """Free slots that are worth a look at who waits."""
        return max(self.samples, self.rung.slots * len(self._shards) // 8) if any(self.live) else 0

    @staticmethod
    def _prompt_pages(slots: Sequence["Stream | None"]) -> tuple[int, int]:
        """(prompt pages, rows) of a shard."""
        rows = _by_row(slots)
        return sum(row.count for row in rows), len(rows)

    def fit(self, admitted: Sequence[tuple[int, Row]] = ()) -> Moves | None:
        """Moves all to the smallest shape that holds it: where the recent tokens are full, which become pages.

        Otherwise only where prompts that were just `admitted` need more pages, or where fewer slots do. None where all
        stays.
        """
        full = self.at == self.recent
        fits = [new for new in followers(self.rungs, self.rung, full) if self._holds(new, full)]
        if not full and not self.waiting and not admitted:
            smaller = [new for new in followers(self.rungs, self.rung, None) if self._holds(new, True)]
            fits = smaller or fits
        new = min(fits, key=lambda rung: (rung.slots, rung.prompt_pages, rung.pages))
        if new.slots == self.rung.slots and self.rung in fits and not full:
            return None
        return self._moved(new, full)

    def _holds(self, rung: Rung, more: bool) -> bool:
        """Whether all shards' streams fit into a shape, with one page `more` for each."""
        return all(_fits(rung, slots, more) for slots in self._shards)

    def _moved(self, new: Rung, full: bool) -> Moves:
        old, shards = self.rung, len(self._shards)
        of_slots, of_prompts, of_pages = (
            np.zeros((shards, count), np.int32) for count in (new.slots, new.prompt_pages, new.pages)
        )
        fewer = new.slots < old.slots
        packed = fewer or new.prompt_pages != old.prompt_pages
        for shard, slots in enumerate(self._shards):
            for slot, stream in enumerate(slots):
                if stream and full:
                    stream.pages.append((old.pages + slot, stream.begin))
                    stream.begin = 0
            pages = [(stream, number) for stream in filter(None, slots) for number in range(len(stream.pages))]
            for place, (stream, number) in enumerate(pages):
                of_pages[shard, place], begin = stream.pages[number]
                stream.pages[number] = place, begin
            rows, used = _by_row(slots), 0
            if fewer:
                kept = [
                    (row, streams[i : i + new.width])
                    for row, streams in rows.items()
                    for i in range(0, len(streams), new.width)
                ]
                rows = {Row(row.prompt, row.count, list(row.pages)): streams for row, streams in kept}
                places = [place for streams in rows.values() for place in streams]
                of_slots[shard, : len(places)] = [slot for slot, _ in places]
                moved = [stream for _, stream in places]
                self._shards[shard] = moved + [None] * (new.slots - len(moved))
            for row, streams in rows.items() if packed else ():
                of_prompts[shard, used : used + len(row.pages)] = row.pages
                row.pages = list(range(used, used + len(row.pages)))
                used += len(row.pages)
                for _, stream in streams:
                    stream.row = row
        self.rung, self.at = new, 0 if full else self.at
        return Moves(
            full, of_slots.ravel() if fewer else None, of_prompts.ravel() if packed else None, of_pages.ravel()
        )

    def allocate(self, admitted: Sequence[tuple[int, Row]]) -> None:
        """Gives admitted prompts their pages."""
        for shard, row in admitted:
            used = {place for other in _by_row(self._shards[shard]) for place in other.pages}
            free = (place for place in range(self.rung.prompt_pages) if place not in used)
            row.pages = list(itertools.islice(free, row.count))

    def limits(self) -> tuple[int, int]:
        """Live streams, of the fullest shard and of all, at which a segment ends before its last token."""
        live = self.live
        if self.waiting:
            total = self.rung.slots * len(self._shards) - self._refill()
            return 0, max(min(total, sum(live) - 1), 0)
        return max((rung.slots for rung in self.rungs if rung.slots < max(live)), default=0), 0

    def slots(self, starts: np.ndarray, ids: np.ndarray) -> Slots:
        """What the next segment is told, of all shards, from the prompts' starts and ids [N]."""
        parts = []
        for slots in self._shards:
            told = no_slots(self.rung, 1)
            rows = _by_row(slots)
            for number, (row, streams) in enumerate(rows.items()):
                for at, left in zip(row.pages, range(int(self._cached[row.prompt]), 0, -page())):
                    told.prompt_pages.reader[at], told.prompt_pages.stop[at] = number, min(left, page())
                for place, (slot, stream) in enumerate(streams):
                    told.streams[number, place], told.places[slot] = slot, number * self.rung.width + place
                    told.last[slot], told.drawn[slot], told.begin[slot] = stream.last, stream.drawn, stream.begin
                    told.rollouts[slot], told.done[slot] = stream.rollout, False
                    told.starts[slot], told.ids[slot] = starts[row.prompt], ids[row.prompt]
                    for at, begin in stream.pages:
                        told.pages.reader[at], told.pages.start[at], told.pages.stop[at] = slot, begin, page()
            parts.append(told)
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    def add(self, segment: Segment, end: int) -> None:
        """Stores the tokens of a segment that went on to the place `end` of the recent tokens."""
        self.at = end
        arrays = [np.split(np.asarray(x), len(self._shards)) for x in segment]
        for shard, slots in enumerate(self._shards):
            *values, lengths, done = (x[shard] for x in arrays)
            for slot, stream in enumerate(slots):
                if stream is None:
                    continue
                number, count = stream.row.prompt * self.samples + stream.rollout, int(lengths[slot])
                for stored, new in zip(self._values, values):
                    stored[number, stream.drawn : stream.drawn + count] = new[slot, :count]
                stream.drawn += count
                self._counts[number] = stream.drawn
                stream.last = int(self._values[0][number, stream.drawn - 1])
                if done[slot]:
                    slots[slot] = None
                    if self._finished:
                        self._finished(stream.row.prompt, stream.rollout, self._values[0][number, : stream.drawn])

    def result(self, pad_id: int) -> Rollouts:
        """All responses."""
        lengths = self._counts.reshape(-1, self.samples)
        longest = max(int(lengths.max()), 1)
        past = np.arange(longest) >= lengths[..., None]
        arrays = [
            np.where(past, fill, values.reshape(*lengths.shape, -1)[..., :longest]).astype(values.dtype)
            for values, fill in zip(self._values, (pad_id, 0, 0))
        ]
        return Rollouts(*arrays, lengths)


def _by_row(slots: Sequence[Stream | None]) -> dict[Row, list[tuple[int, Stream]]]:
    """{row: [(slot, stream)]} of a shard's live streams."""
    rows: dict[Row, list[tuple[int, Stream]]] = {}
    for slot, stream in enumerate(slots):
        if stream:
            rows.setdefault(stream.row, []).append((slot, stream))
    return rows


def no_slots(rung: Rung, shards: int) -> Slots:
    """Free slots of all shards."""
    S, N = shards * rung.slots, shards * rung.rows
    last, drawn, starts, rollouts, begin, places = np.zeros((6, S), np.int32)
    prompt_pages, pages = (Pages(*np.zeros((3, shards * count), np.int32)) for count in (rung.prompt_pages, rung.pages))
    streams = np.zeros((N, rung.width), np.int32)
    ids, done = np.zeros(S, np.uint32), np.ones(S, bool)
    return Slots(last, drawn, starts, ids, rollouts, begin, done, streams, places, prompt_pages, pages)


def _fits(rung: Rung, slots: Sequence[Stream | None], more: bool) -> bool:
    """Whether a shard's live streams fit into a shape, with one page `more` for each."""
    rows = {row: -(-len(streams) // rung.width) for row, streams in _by_row(slots).items()}
    live = [stream for stream in slots if stream]
    return (
        len(live) <= rung.slots
        and sum(rows.values()) <= rung.rows
        and sum(count * row.count for row, count in rows.items()) <= rung.prompt_pages
        and sum(more + len(stream.pages) for stream in live) <= rung.pages
    )
