"""A record as the policy is asked it: in several orders of its images, rendered and encoded."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from perl_jax import permute
from perl_jax.records.prompts import Prompts


class Question(NamedTuple):
    """One question in O orders of its images."""

    record: Mapping
    orders: list[permute.Order]  # [O]
    samples: list[permute.Sample]  # [O] rendered records, each with the answer for its order
    prompts: list[tuple]  # [O] (ids, images)


def in_orders(record: Mapping, orders: Sequence[permute.Order], prompts: Prompts) -> Question:
    """An opened record in these orders; equal ones are rendered and encoded once. InputError for an invalid record."""
    by_order = {}
    for order in dict.fromkeys(orders):
        sample = permute.render(permute.apply(record, order))
        by_order[order] = sample, prompts.encode(sample)
    samples, encoded = zip(*(by_order[order] for order in orders))
    return Question(record, list(orders), list(samples), list(encoded))
