"""Tiles drawn as work goes on: results in order, bounded work in flight, failures raised."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.tiles import stream_tiles


@pytest.mark.parametrize("threads", [1, 3])
def test_streamed_tiles_come_in_order_and_few_are_held(threads: int) -> None:
    drawn, taken = [], []

    def tiles() -> Iterator[int]:
        for tile in range(50):
            drawn.append(tile)
            assert len(drawn) - len(taken) <= 2 * threads
            yield tile

    for result in stream_tiles(lambda tile: tile * tile, tiles(), threads):
        taken.append(result)
    assert taken == [tile * tile for tile in range(50)]


def test_a_failed_tile_is_raised_and_no_more_are_drawn() -> None:
    drawn = []

    def tiles() -> Iterator[int]:
        for tile in range(1000):
            drawn.append(tile)
            yield tile

    def work(tile: int) -> int:
        if tile == 3:
            raise ValueError("tile 3")
        return tile

    with pytest.raises(ValueError, match="tile 3"):
        list(stream_tiles(work, tiles(), 2))
    assert len(drawn) < 10
