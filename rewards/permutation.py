"""Numbers in a random order, drawn one at a time: the first few of a trillion cost what the first few of ten do."""

import random
from collections.abc import Iterator


def permutation(count: int, draw: random.Random) -> Iterator[int]:
    """0 to `count` - 1, each once, in an order drawn by `draw`.

    Fisher and Yates's shuffle that keeps only the places that differ from the start, so memory grows with the numbers
    taken. The order is that of `draw.sample(range(count), count)`.
    """
    moved: dict[int, int] = {}
    for last in range(count - 1, -1, -1):
        place = draw.randrange(last + 1)
        yield moved.get(place, place)
        end = moved.pop(last, last)
        if place != last:
            moved[place] = end
