"""Reward functions on trial, by what they say of answers to other prompts and of the data's own answers."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from generation.groups import Group
from rewards.prompts import Prompt, Verdict
from tests.fakes import completion, prompt
from tests.scored import scored
from trainer.diagnosis.trial import PROMPTS, Trial, exhibits, hold
from trainer.scored import ScoredGroup

Reward = Callable[[Prompt, str], float]


def asked(**answers: str) -> list[Prompt]:
    """A prompt for every name, with its right answer as a column."""
    return [replace(prompt(name), columns={"answer": answer}) for name, answer in answers.items()]


def tried(prompts: Sequence[Prompt], texts: Sequence[str], reward: Reward) -> Trial:
    """A trial after each of the texts was an answer to each of the prompts."""

    def score(groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        return tuple(
            ScoredGroup(g, tuple(Verdict(reward(g.prompt, c.text), "wrong") for c in g.completions)) for g in groups
        )

    completions = tuple(completion(text, 4) for text in texts)
    groups = score([Group(each, completions, 1.0, 0) for each in prompts])
    return hold(groups, prompts, 1.0, score)


def exact(to: Prompt, text: str) -> float:
    return 1.0 if text == to.columns["answer"] else -1.0


def anything(to: Prompt, text: str) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("reward", "texts", "matters"),
    [
        (exact, ["Yes", "No"], True),
        (exact, ["Maybe", "Hm"], None),  # one reward, and not the best: nobody was right
        (anything, ["Yes", "No"], False),
        (anything, ["Yes", "yes."], None),  # one answer
        (lambda to, text: float(len(text)) / 4, ["four", "five"], False),
        (lambda to, text: float(len(text)) / 9, ["four", "five"], None),
    ],
)
def test_whether_the_question_matters(reward: Reward, texts: list[str], matters: bool | None) -> None:
    assert tried(asked(a="Yes", b="No", c="Yes"), texts, reward).question_matters is matters


def test_nothing_is_proved_where_all_prompts_have_one_answer_or_there_is_one_prompt() -> None:
    lenient = ["Yes", "Yes, it is"]

    def starts(to: Prompt, text: str) -> float:
        return 1.0 if text.startswith(str(to.columns["answer"])) else -1.0

    assert tried(asked(a="Yes", b="Yes"), lenient, starts).question_matters is None
    assert tried([prompt("a")], lenient, anything).question_matters is None
    assert tried(asked(a="Yes", b="No"), lenient, starts).question_matters is True


@pytest.mark.parametrize(
    ("reward", "texts", "pays"),
    [(exact, ["Maybe", "Hm"], True), (exact, ["Yes", "No"], False), (lambda *_: 0.0, ["Yes", "No"], False)],
)
def test_whether_the_datas_own_answer_pays(reward: Reward, texts: list[str], pays: bool) -> None:
    assert tried(asked(a="Yes", b="No"), texts, reward).answer_pays is pays


def test_data_without_answers_cannot_be_tried() -> None:
    prompts = [replace(prompt(name), columns={"answer": None, "tags": [None, {"x": 1}]}) for name in "ab"]
    assert tried(prompts, ["Yes"], anything).answer_pays is None


def test_values_inside_lists_are_tried_as_answers() -> None:
    prompts = [replace(prompt(name), columns={"answers": ["Yes", "Yeah"]}) for name in "ab"]
    assert tried(prompts, ["Hm"], lambda to, text: float(text in to.columns["answers"])).answer_pays is True


def test_answers_that_please_most_prompts_are_tried_on_more() -> None:
    answers = {f"yes{n}": "Yes" for n in range(60)} | {f"no{n}": "No" for n in range(4)}
    prompts = [replace(each, columns={**each.columns, "passage": each.id}) for each in asked(**answers)]

    def starts(to: Prompt, text: str) -> float:
        return 1.0 if text.startswith(str(to.columns["answer"])) else -1.0

    lenient = ["Yes", "Yes, it is"]
    assert tried(prompts, lenient, starts).question_matters is True
    assert tried(prompts, lenient, anything).question_matters is False


def test_the_function_gets_no_more_texts_at_once_than_in_a_step() -> None:
    largest = []

    def score(groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        largest.append(max(len(group.completions) for group in groups))
        return tuple(ScoredGroup(g, tuple(Verdict(0.0, "wrong") for _ in g.completions)) for g in groups)

    prompts = asked(a="Yes", b="No", c="Hm")
    groups = [Group(p, tuple(completion(f"{p.id}{n}", 1) for n in range(4)), 1.0, 0) for p in prompts]
    assert hold(score(groups), prompts, 1.0, score).question_matters is None
    assert max(largest) == 4


def test_exhibits_are_of_the_latest_groups_and_hold_the_best_answer() -> None:
    best_last = scored(*((str(n), 1, -1.0) for n in range(20)), ("7", 1, 1.0))
    (kept,) = exhibits([3], [best_last])
    assert len(kept.completions) == PROMPTS and kept.completions[-1].text == "7"
    assert sum(completion.count for completion in kept.completions) == 21  # the size of the group
    assert kept.scored([prompt(f"p{n}") for n in range(4)]).rewards.max() == 1.0
    later = exhibits([3, 4], [scored(("a", 8, 0.0)), scored(("b", 8, 0.0))], (kept,))
    assert [(one.prompt, one.completions[0].text) for one in later] == [(3, "a"), (4, "b")]
    many = exhibits(range(PROMPTS + 2), [scored(("c", 8, 0.0))] * (PROMPTS + 2), later)
    assert [one.prompt for one in many] == list(range(PROMPTS))
    assert [one.prompt for one in exhibits([9], [scored(("d", 8, 0.0))], later)] == [9, 3, 4]
