import numpy as np
import pytest

from configs.schema import TrainingSettings
from rewards.prompts import EXAMPLE_PROMPT
from tests.scored import scored
from trainer.signal.advantages import assign
from trainer.signal.partial_credit import levelled
from trainer.signal.self_imitation import Recall

PROMPT = EXAMPLE_PROMPT.id


WRONG = scored(("near", 30, -0.1), ("far", 10, -0.5))


def test_the_most_frequent_right_answer_is_remembered_until_there_is_another() -> None:
    recall = Recall().after([scored(("no", 5, -0.5), ("seven", 1, 1.0), ("7", 2, 1.0))], 1.0)
    assert recall.answers[PROMPT][0].text == "7"
    assert recall.after([WRONG], 1.0) == recall
    assert recall.after([scored(("VII", 8, 1.0))], 1.0).answers[PROMPT][0].text == "VII"
    assert Recall().after([WRONG], 1.0).answers == {}


def test_it_is_shown_as_a_tenth_of_the_samples_that_the_engine_gave_no_probability() -> None:
    recall = Recall().after([scored(("7", 2, 1.0), ("no", 6, -0.5))], 1.0)
    group = recall.shown(WRONG).group
    assert [(completion.text, completion.count) for completion in group.completions] == [
        ("near", 30),
        ("far", 10),
        ("7", 4),
    ]
    assert np.isnan(group.completions[2].logprobs).all() and not np.isnan(group.completions[0].logprobs).any()
    assert recall.shown(WRONG).verdicts[2].reward == 1.0
    assert recall.shown(scored(("no", 2, -0.5))).group.completions[-1].count == 1


def test_it_gains_what_all_others_lose() -> None:
    recall = Recall().after([scored(("7", 2, 1.0), ("no", 6, -0.5))], 1.0)
    (lesson,) = assign([levelled(recall.shown(WRONG), 1.0)], TrainingSettings())
    # 4 right of 44: sqrt(40 / 4) and -sqrt(4 / 40)
    assert lesson.advantages == pytest.approx([-(0.1**0.5), -(0.1**0.5), 10**0.5], rel=1e-3)
