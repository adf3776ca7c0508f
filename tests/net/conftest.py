"""Fixtures of the network's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import netns
import pytest


@pytest.fixture(scope="session")
def netns_here() -> None:
    netns.require()


@pytest.fixture
def veth(netns_here: None) -> Iterator[Callable[..., netns.Pair]]:
    """Makes netns.Pair, with its arguments; the pairs are gone after the test."""
    pairs: list[netns.Pair] = []

    def make(**kwargs: Any) -> netns.Pair:
        pairs.append(netns.Pair(**kwargs))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()
