import pytest

from trainer.signal.curriculum import Curriculum, Outcome, Visit
from trainer.signal.ladder import Ladder

LADDER = Ladder(base_temperature=1.0, factor=1.5, max_temperature=2.0)
IDS = tuple("abcdefgh")
SOLVED, LEARNING = Outcome("solved", False, False, False, False), Outcome("learning", True, False, False, False)
COLLAPSED = Outcome("collapsed", False, False, True, True)


def curriculum(replay_share: float = 0.25, seed: int = 0) -> Curriculum:
    return Curriculum(IDS, seed, LADDER, replay_share)


def ids(visits: tuple[Visit, ...]) -> list[str]:
    return [visit.prompt_id for visit in visits]


def test_every_prompt_is_visited_before_any_is_visited_again() -> None:
    now = curriculum()
    seen: list[str] = []
    for _ in range(4):
        taken = ids(now.take(2))
        seen += taken
        now = now.record(dict.fromkeys(taken, LEARNING))
    assert sorted(seen) == list(IDS)
    assert sorted(seen[:2]) == sorted(ids(now.take(2)))


def test_order_depends_on_the_seed_alone() -> None:
    assert curriculum(seed=3).take(8) == curriculum(seed=3).take(8)
    assert len({tuple(ids(curriculum(seed=seed).take(8))) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("share", "n", "replayed"),
    [(0.25, 4, 1), (0.25, 3, 1), (0.5, 4, 2), (1.0, 3, 2), (0.0, 4, 0), (0.25, 1, 0)],
)
def test_share_of_replayed_prompts(share: float, n: int, replayed: int) -> None:
    now = curriculum(share).record(dict.fromkeys("abcd", SOLVED))
    taken = ids(now.take(n))
    assert len(set(taken)) == n
    assert sum(prompt_id in "abcd" for prompt_id in taken) == replayed


def test_the_solved_prompt_longest_not_visited_is_replayed() -> None:
    now = curriculum().record({"a": SOLVED}).record({"b": SOLVED}).record({"a": SOLVED})
    assert ids(now.take(4))[-1] == "b"


def test_either_kind_fills_in_for_the_other() -> None:
    few_unsolved = curriculum().record(dict.fromkeys("abcdefg", SOLVED))
    assert ids(few_unsolved.take(4))[0] == "h"
    assert len(set(ids(few_unsolved.take(4)))) == 4
    few_solved = curriculum(0.75).record({"a": SOLVED})
    assert sorted(ids(few_solved.take(8))) == list(IDS)
    assert sorted(ids(curriculum(0.0).record(dict.fromkeys(IDS, SOLVED)).take(8))) == list(IDS)


def test_a_prompt_found_unsolved_on_replay_is_unsolved_again() -> None:
    now = curriculum().record(dict.fromkeys("abcd", SOLVED)).record({"a": LEARNING, "b": SOLVED})
    assert now.solved == {"b", "c", "d"}


def test_temperatures_come_from_the_ladder() -> None:
    now = curriculum().record({"a": COLLAPSED, "b": LEARNING})
    assert {visit.prompt_id: visit.temperature for visit in now.take(8)} == dict.fromkeys(IDS, 1.0) | {"a": 1.5}
    again = now.record({"a": LEARNING})
    assert all(visit.temperature == 1.0 for visit in again.take(8))


def test_more_prompts_than_there_are() -> None:
    with pytest.raises(ValueError, match="9 different prompts from a data set of 8"):
        curriculum().take(9)


FLOOR, SPREADING = Outcome("floor", False, False, False, True), Outcome("learning", False, True, False, True)


def visited(now: Curriculum, outcome: Outcome, times: int) -> Curriculum:
    for _ in range(times):
        now = now.record(dict.fromkeys(IDS, outcome))
    return now


@pytest.mark.parametrize(
    ("outcome", "visits"), [(COLLAPSED, 3), (SPREADING, 3), (FLOOR, 1)], ids=["collapsed", "spreading", "floor"]
)
def test_exhausted_when_every_rescue_was_tried(outcome: Outcome, visits: int) -> None:
    start = Curriculum(IDS, 0, LADDER, rescue_visits=3)
    assert not visited(start, outcome, visits - 1).exhausted
    tried = visited(start, outcome, visits)
    assert tried.exhausted
    assert not tried.record({"a": LEARNING}).exhausted  # a lesson of one prompt changes what others answer
    assert tried.record({"a": SOLVED}).exhausted
    assert not visited(tried, SOLVED, 1).exhausted  # nothing is left to learn


def test_not_exhausted_before_every_unsolved_prompt_was_visited() -> None:
    assert not curriculum().record(dict.fromkeys("abcdefg", FLOOR)).exhausted
    assert curriculum().record(dict.fromkeys("abcdefg", FLOOR) | {"h": SOLVED}).exhausted


def test_without_a_rescue_one_visit_is_all() -> None:
    cold = Ladder(base_temperature=1.0, factor=1.5, max_temperature=1.0)
    assert visited(Curriculum(IDS, 0, cold, rescue_visits=3), COLLAPSED, 1).exhausted


def test_misses_are_counted_in_a_row() -> None:
    now = visited(curriculum(), FLOOR, 2).record({"a": LEARNING, "b": COLLAPSED})
    assert (now.misses["a"], now.misses["b"], now.misses["c"]) == (0, 3, 2)


def some(now: Curriculum, steps: int) -> Curriculum:
    for _ in range(steps):
        now = now.record(dict.fromkeys(ids(now.take(8)), FLOOR))
    return now


def test_many_prompts_without_a_lesson_stand_for_a_large_data_set() -> None:
    large = Curriculum(tuple(map(str, range(1000))), 0, LADDER)
    assert not some(large, 7).exhausted
    assert some(large, 8).exhausted


def test_where_lessons_are_rare_a_longer_silence_is_no_accident() -> None:
    large = Curriculum(tuple(map(str, range(1000))), 0, LADDER)
    rare = some(large, 5).record({"0": LEARNING})  # one lesson in 41 visits
    assert not some(rare, 25).exhausted
    assert some(rare, 26).exhausted  # more than five times 41
    frequent = large.record(dict.fromkeys("0123", LEARNING))
    assert not some(frequent, 7).exhausted
    assert some(frequent, 8).exhausted
