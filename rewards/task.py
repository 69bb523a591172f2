"""A task: prompts to ask, and what to say of the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Protocol

from configs.schema import TaskSettings
from rewards import dataset
from rewards.builtin import BuiltinTask, Question
from rewards.comparison import Comparison
from rewards.errors import TaskError
from rewards.function import RewardFunction
from rewards.prompts import Message, Prompt, Reason, Verdict

TASKS: dict[str, type[BuiltinTask]] = {"comparison": Comparison}
"""The built-in tasks. A new one is a class with the four members of BuiltinTask, and an entry here."""

Tokenize = Callable[[Sequence[Message]], Sequence[int]]
"""Chat messages to token ids through the model's chat template, generation prompt included."""


@dataclass(frozen=True)
class Answer:
    """A completion, as a judge sees it. truncated: it was cut off by max_completion_length."""

    text: str
    truncated: bool
    token_ids: tuple[int, ...]


EXAMPLE_ANSWER = Answer(text="Yes", truncated=False, token_ids=(10539, 2))


class Judge(Protocol):
    def __call__(self, prompt: Prompt, answers: Sequence[Answer]) -> Sequence[Verdict]:
        """A verdict for each of the answers to `prompt`, in order."""
        ...


@dataclass(frozen=True)
class Task:
    """prompts: at least one. best_reward: that of a right answer. judge: see `score`."""

    prompts: tuple[Prompt, ...]
    best_reward: float
    judge: Judge

    def score(
        self,
        prompt: Prompt,
        texts: Sequence[str],
        truncated: Sequence[bool],
        token_ids: Sequence[Sequence[int]],
    ) -> tuple[Verdict, ...]:
        """A verdict for each completion of `prompt`, in order; a distinct (text, truncated) is judged once.

        truncated: which were cut off by max_completion_length. token_ids: of each completion.
        Raises RewardError when a user's function fails.
        """
        distinct: dict[tuple[str, bool], Answer] = {}
        for text, cut, tokens in zip(texts, truncated, token_ids, strict=True):
            distinct.setdefault((text, cut), Answer(text, cut, tuple(map(int, tokens))))
        verdicts = dict(zip(distinct, self.judge(prompt, list(distinct.values())), strict=True))
        return tuple(verdicts[key] for key in zip(texts, truncated, strict=True))


@dataclass(frozen=True)
class BuiltinJudge:
    task: type[BuiltinTask]

    def __call__(self, prompt: Prompt, answers: Sequence[Answer]) -> Sequence[Verdict]:
        right = prompt.columns["answer"]
        return [self.task.verdict(right, answer.text, answer.truncated) for answer in answers]


@dataclass(frozen=True)
class FunctionJudge:
    """A user's function gives numbers; the reason follows from them: `correct` from best_reward on, else
    `truncated` where the completion was cut off, else `wrong`."""

    function: RewardFunction
    best_reward: float

    def __call__(self, prompt: Prompt, answers: Sequence[Answer]) -> Sequence[Verdict]:
        rewards = self.function(prompt, [answer.text for answer in answers], [answer.token_ids for answer in answers])
        return [
            Verdict(reward, self._reason(reward, answer)) for reward, answer in zip(rewards, answers, strict=True)
        ]

    def _reason(self, reward: float, answer: Answer) -> Reason:
        if reward >= self.best_reward:
            return "correct"
        return "truncated" if answer.truncated else "wrong"


@dataclass(frozen=True)
class TaskSummary:
    """A line of `cohort tasks`. capacity: how many different prompts it has. example: one of them."""

    name: str
    summary: str
    capacity: int
    example: Question


EXAMPLE_SUMMARY = TaskSummary(
    name="comparison",
    summary='Two numbers below 100, which one is greater: answer "Yes" or "No".',
    capacity=9900,
    example=Question(id="comparison-7-3", text="Is 7 greater than 3? Answer Yes or No.", answer="Yes"),
)


def tasks() -> tuple[TaskSummary, ...]:
    """The built-in tasks, by name."""
    return tuple(
        TaskSummary(name, task.summary, task.capacity, next(task.questions(seed=0)))
        for name, task in sorted(TASKS.items())
    )


def load_task(settings: TaskSettings, seed: int, tokenize: Tokenize) -> Task:
    """Make the task that the settings name; `seed` counts where `task.seed` is null. Raises TaskError.

    A data set's plain-text prompt is asked as one user message through the model's chat template (TRL would
    give a model the bare text); the reward function sees it as the text it is.
    """
    if settings.name is not None:
        return _builtin(settings, settings.name, seed if settings.seed is None else settings.seed, tokenize)
    return _own(settings, tokenize)


def _builtin(settings: TaskSettings, name: str, seed: int, tokenize: Tokenize) -> Task:
    if name not in TASKS:
        near = get_close_matches(name, TASKS, n=1)
        raise TaskError(
            f"task.name: there is no built-in task {name}. {f'Did you mean {near[0]}? ' if near else ''}"
            f"There are {', '.join(sorted(TASKS))}; for a task of your own set task.dataset and task.reward."
        )
    task = TASKS[name]
    if settings.size + settings.few_shot > task.capacity:
        raise TaskError(
            f"task.size: {settings.size} is more than {name} has: at most "
            f"{task.capacity - settings.few_shot} different prompts with task.few_shot {settings.few_shot}. "
            "Lower task.size."
        )
    drawn = list(islice(task.questions(seed), settings.size + settings.few_shot))
    opening = _system(settings.system_prompt)
    for example in drawn[settings.size :]:
        opening += (
            {"role": "user", "content": example.text},
            {"role": "assistant", "content": example.answer},
        )
    prompts = []
    for question in drawn[: settings.size]:
        messages = (*opening, {"role": "user", "content": question.text})
        columns = {"answer": question.answer}
        prompts.append(Prompt(question.id, messages, columns, tuple(tokenize(messages)), text=None))
    return Task(tuple(prompts), best_reward=1.0, judge=BuiltinJudge(task))


def _own(settings: TaskSettings, tokenize: Tokenize) -> Task:
    if settings.dataset is None or settings.reward is None:
        raise TaskError("task.dataset and task.reward are needed for a task of your own. Set both, or task.name.")
    function = RewardFunction(settings.reward, settings.reward_timeout)
    rows = dataset.read(settings.dataset, settings.split)
    function.check(tuple(rows[0].columns))
    system = _system(settings.system_prompt)
    prompts = []
    for row in rows:
        messages = ({"role": "user", "content": row.prompt},) if isinstance(row.prompt, str) else row.prompt
        if messages[0]["role"] != "system":
            messages = (*system, *messages)
        text = row.prompt if isinstance(row.prompt, str) else None
        prompts.append(Prompt(row.id, messages, row.columns, tuple(tokenize(messages)), text))
    return Task(tuple(prompts), settings.best_reward, FunctionJudge(function, settings.best_reward))


def _system(prompt: str | None) -> tuple[Message, ...]:
    return () if prompt is None else ({"role": "system", "content": prompt},)
