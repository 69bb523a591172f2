import numpy as np
import pytest

from configs.schema import TrainingSettings
from tests.scored import scored
from trainer.signal.advantages import assign
from trainer.signal.partial_credit import without_partial_credit
from trainer.signal.self_imitation import PROMPTS, SelfImitation

NUMBER = 5
WRONG = scored(("near", 30, -0.1), ("far", 10, -0.5))


def test_the_most_frequent_right_answer_is_remembered_until_there_is_another() -> None:
    group = scored(("no", 5, -0.5), ("7", 2, 1.0), ("seven", 1, 1.0))  # most frequent first, as groups are
    memory = SelfImitation().after([NUMBER], [group], 1.0)
    assert memory.answers[NUMBER].text == "7"
    assert memory.after([NUMBER], [WRONG], 1.0).answers.keys() == memory.answers.keys()
    assert memory.after([NUMBER], [scored(("VII", 8, 1.0))], 1.0).answers[NUMBER].text == "VII"
    assert SelfImitation().after([NUMBER], [WRONG], 1.0).answers == {}


def test_of_very_many_prompts_those_are_remembered_that_were_right_last() -> None:
    right = scored(("7", 8, 1.0))
    memory = SelfImitation().after(range(PROMPTS), [right] * PROMPTS, 1.0)
    memory = memory.after([0, PROMPTS], [right, right], 1.0)
    assert len(memory.answers) == PROMPTS
    assert 0 in memory.answers and 1 not in memory.answers and PROMPTS in memory.answers


def test_it_is_shown_as_a_tenth_of_the_samples_that_the_engine_gave_no_probability() -> None:
    memory = SelfImitation().after([NUMBER], [scored(("no", 6, -0.5), ("7", 2, 1.0))], 1.0)
    group = memory.shown(NUMBER, WRONG).group
    assert [(completion.text, completion.count) for completion in group.completions] == [
        ("near", 30),
        ("far", 10),
        ("7", 4),
    ]
    assert np.isnan(group.completions[2].logprobs).all() and not np.isnan(group.completions[0].logprobs).any()
    assert memory.shown(NUMBER, WRONG).verdicts[2].reward == 1.0
    assert memory.shown(NUMBER, scored(("no", 2, -0.5))).group.completions[-1].count == 1


def test_it_gains_what_all_others_lose() -> None:
    memory = SelfImitation().after([NUMBER], [scored(("no", 6, -0.5), ("7", 2, 1.0))], 1.0)
    (lesson,) = assign(without_partial_credit([memory.shown(NUMBER, WRONG)], 1.0), TrainingSettings())
    # 4 right of 44: sqrt(40 / 4) and -sqrt(4 / 40)
    assert lesson.advantages == pytest.approx([-(0.1**0.5), -(0.1**0.5), 10**0.5], rel=1e-3)
