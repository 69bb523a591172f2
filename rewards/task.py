"""A task: prompts to ask, and what to say of the answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice, tee
from typing import Any

from configs.schema import GYM, REWARD, Difficulty, TaskSettings, has_held_out
from rewards import dataset, gym, shares
from rewards.arithmetic import Arithmetic
from rewards.binary import Binary
from rewards.builtin import BuiltinTask, Question
from rewards.comparison import Comparison
from rewards.counting import Counting
from rewards.errors import TaskError
from rewards.function import RewardFunction
from rewards.judges import Answer, BuiltinJudge, FunctionJudge, GymJudge, Judge
from rewards.prompts import Message, Prompt, TokenIds, Verdict

TASKS: dict[str, type[BuiltinTask]] = {
    "arithmetic": Arithmetic,
    "binary": Binary,
    "comparison": Comparison,
    "counting": Counting,
}
"""The built-in tasks. A new one is a class with the members of BuiltinTask, and an entry here."""

Tokenize = Callable[[Sequence[Message]], Sequence[int]]
"""Chat messages to token ids through the model's chat template, generation prompt included."""


@dataclass(frozen=True)
class Task:
    """prompts: at least one. best_reward: that of a right answer. judge: see `score`. held_out: prompts that are not
    trained on. reward_names: of the functions whose sum the reward is; none if there is one."""

    prompts: tuple[Prompt, ...]
    best_reward: float
    judge: Judge
    held_out: tuple[Prompt, ...] = ()
    reward_names: tuple[str, ...] = ()

    def score(
        self,
        prompt: Prompt,
        texts: Sequence[str],
        truncated: Sequence[bool],
        token_ids: Sequence[TokenIds],
        policy_version: int = 0,
    ) -> tuple[Verdict, ...]:
        """A verdict for each completion of `prompt`, in order; a distinct (text, truncated) is judged once.

        truncated: which were cut off by max_completion_length. token_ids: of each completion. policy_version: that
        sampled them.
        Raises RewardError when a user's function fails.
        """
        distinct: dict[tuple[str, bool], Answer] = {}
        for text, cut, tokens in zip(texts, truncated, token_ids, strict=True):
            distinct.setdefault((text, cut), Answer(text, cut, tokens, policy_version))
        verdicts = dict(zip(distinct, self.judge(prompt, list(distinct.values())), strict=True))
        return tuple(verdicts[key] for key in zip(texts, truncated, strict=True))


@dataclass(frozen=True)
class TaskSummary:
    """An entry of `cohort tasks`. ranges: low and high of each difficulty. example: a question of medium."""

    name: str
    summary: str
    ranges: Mapping[Difficulty, tuple[int, int]]
    example: Question


EXAMPLE_SUMMARY = TaskSummary(
    name="comparison",
    summary='Two numbers, is the first one greater: "Yes" or "No".',
    ranges={"easy": (0, 9), "medium": (0, 99), "hard": (0, 9999)},
    example=Question(id="comparison-7-3", text="Is 7 greater than 3? Answer Yes or No.", answer="Yes"),
)


def tasks() -> tuple[TaskSummary, ...]:
    """The built-in tasks, by name."""
    return tuple(
        TaskSummary(name, task.summary, task.ranges, next(task(*task.ranges["medium"]).questions(seed=0)))
        for name, task in sorted(TASKS.items())
    )


def load_task(settings: TaskSettings, seed: int, tokenize: Tokenize, held_out: int = 0) -> Task:
    """Make the task that the settings name; `seed` counts where `task.seed` is null. Raises TaskError.

    held_out: prompts that are made or read at most of the split that is not trained on.

    A data set's plain-text prompt is asked as one user message through the model's chat template (TRL would
    give a model the bare text); the reward function sees it as the text it is.
    """
    if settings.name is None:
        return _own(settings, tokenize, held_out)
    seed = seed if settings.seed is None else settings.seed
    if settings.name.startswith(GYM):
        return _gym(settings, settings.name.removeprefix(GYM), seed, tokenize, held_out)
    return _builtin(settings, settings.name, seed, tokenize, held_out)


def _builtin(settings: TaskSettings, name: str, seed: int, tokenize: Tokenize, held_out: int) -> Task:
    if name not in TASKS:
        near = get_close_matches(name, TASKS, n=1)
        raise TaskError(
            f"task.name: there is no built-in task {name}. {f'Did you mean {near[0]}? ' if near else ''}"
            f"There are {', '.join(sorted(TASKS))}, and {GYM}NAME for one of the package reasoning-gym; for a "
            "task of your own set task.dataset and task.reward."
        )
    low, high = settings.range or TASKS[name].ranges[settings.difficulty]
    task, split = TASKS[name](low, high), _share(settings.split)
    whole = task.capacity < shares.BLOCK
    if whole and (setting := _asks_for_test(settings)):
        raise TaskError(
            f"{setting}: test: {name} has only {task.capacity} questions in the range [{low}, {high}], and all are "
            f"for training; a held-out split needs {shares.BLOCK} or more. Leave {setting} out, or widen task.range."
        )
    available = task.capacity if whole else shares.size(task.capacity, split)
    if settings.size > available:
        raise TaskError(
            f"task.size: {settings.size} is more than {name} has: {available} different questions in the range "
            f"[{low}, {high}] for task.split {split}. Lower task.size, or widen task.range."
        )
    examples = task.questions(seed) if whole else shares.take(task.questions(seed), "examples")
    shown = list(islice(examples, settings.few_shot + 1))  # one to spare: none is shown before itself

    def prompts(split: shares.Share, number: int) -> tuple[Prompt, ...]:
        asked = task.questions(seed) if whole else shares.take(task.questions(seed), split)
        return tuple(
            _prompt(
                question,
                _opening(settings, (example for example in shown if example.id != question.id)),
                {"answer": question.answer},
                tokenize,
            )
            for question in islice(asked, number)
        )

    return Task(
        prompts(split, settings.size),
        best_reward=1.0,
        judge=BuiltinJudge(task, settings.shaping),
        held_out=prompts(_share(settings.eval_split), held_out) if settings.eval_split else (),
    )


def _gym(settings: TaskSettings, name: str, seed: int, tokenize: Tokenize, held_out: int) -> Task:
    for key in ("difficulty", "range"):
        if (value := getattr(settings, key)) != TaskSettings.model_fields[key].default:
            raise TaskError(
                f"task.{key}: {value} is not allowed for {settings.name}, which is asked with the package's own "
                "settings. Leave it out."
            )
    split = _share(settings.split)
    asked, others, examples = tee(gym.questions(name, seed), 3)
    opening = _opening(settings, shares.take(examples, "examples"))

    def prompts(asked: Iterable[gym.GymQuestion], split: shares.Share, number: int) -> tuple[Prompt, ...]:
        return tuple(
            _prompt(question, opening, {"answer": question.answer, "task": name, "entry": question.entry}, tokenize)
            for question in islice(shares.take(asked, split), number)
        )

    trained = prompts(asked, split, settings.size)
    if len(trained) < settings.size:
        raise TaskError(
            f"task.size: {settings.size} is more than {settings.name} has: {len(trained)} different questions for "
            f"task.split {split}. Lower task.size."
        )
    return Task(
        trained,
        best_reward=1.0,
        judge=GymJudge(settings.shaping, settings.reward_timeout),
        held_out=prompts(others, _share(settings.eval_split), held_out) if settings.eval_split else (),
    )


def _own(settings: TaskSettings, tokenize: Tokenize, held_out: int) -> Task:
    if settings.dataset is None or not settings.reward:
        raise TaskError("task.dataset and task.reward are needed for a task of your own. Set both, or task.name.")
    specs, weights = zip(*map(weighted, settings.reward), strict=True)
    functions = tuple(RewardFunction(spec, settings.reward_timeout, settings.reward_environment) for spec in specs)
    rows = dataset.read(settings.dataset, settings.split, settings.config, settings.revision, settings.columns)
    for function in functions:
        function.check(tuple(rows[0].columns))
    others = _held_out_rows(settings, settings.dataset)[:held_out] if has_held_out(settings) else ()
    for function in functions if others else ():
        function.check(tuple(others[0].columns), held_out=True)
    system = _system(settings.system_prompt)

    def prompt(row: dataset.Row) -> Prompt:
        messages = ({"role": "user", "content": row.prompt},) if isinstance(row.prompt, str) else row.prompt
        if messages[0]["role"] != "system":
            messages = (*system, *messages)
        text = row.prompt if isinstance(row.prompt, str) else None
        return Prompt(row.id, messages, row.columns, tuple(tokenize(messages)), text)

    return Task(
        tuple(map(prompt, rows)),
        settings.best_reward,
        FunctionJudge(functions, weights, settings.best_reward),
        tuple(map(prompt, others)),
        tuple(function.name for function in functions) if len(functions) > 1 else (),
    )


def weighted(text: str) -> tuple[str, float]:
    """One of `task.reward`, as what judges and its weight.

    >>> weighted("rewards.py:brief 0.2"), weighted("rewards.py:right")
    (('rewards.py:brief', 0.2), ('rewards.py:right', 1.0))
    """
    match = REWARD.fullmatch(text)
    assert match is not None  # as the settings have made sure
    return match["judge"], float(match["weight"] or 1.0)


def _held_out_rows(settings: TaskSettings, dataset_name: str) -> tuple[dataset.Row, ...]:
    try:
        source, split = settings.eval_dataset or dataset_name, settings.eval_split or "train"
        of_dataset = (settings.config, settings.revision) if source == dataset_name else (None, None)
        return dataset.read(source, split, *of_dataset, settings.columns)
    except TaskError as error:  # which speaks of the settings that training prompts have
        text = str(error).replace("task.split", "task.eval_split")
        if settings.eval_dataset:
            text = text.replace("task.dataset", "task.eval_dataset")
        raise TaskError(text) from None


def _share(split: str | None) -> shares.Share:
    return "test" if split == "test" else "train"


def _asks_for_test(settings: TaskSettings) -> str | None:
    """The setting that does."""
    return next((f"task.{name}" for name in ("split", "eval_split") if getattr(settings, name) == "test"), None)


def _opening(settings: TaskSettings, examples: Iterable[Question]) -> tuple[Message, ...]:
    """The chat before every question: the system prompt, and examples with their answers."""
    shown = list(islice(examples, settings.few_shot))
    if len(shown) < settings.few_shot:
        raise TaskError(
            f"task.few_shot: {settings.few_shot} is too many: {settings.name} has {len(shown)} questions to show as "
            "examples. Lower it."
        )
    if not all(example.answer for example in shown):
        raise TaskError(
            f"task.few_shot: {settings.few_shot} is not allowed for {settings.name}: the package tells no right "
            "answers to show, it only scores given ones. Leave it out."
        )
    opening = _system(settings.system_prompt)
    for example in shown:
        opening += (
            {"role": "user", "content": example.text},
            {"role": "assistant", "content": example.answer},
        )
    return opening


def _prompt(
    question: Question, opening: tuple[Message, ...], columns: Mapping[str, Any], tokenize: Tokenize
) -> Prompt:
    messages = (*opening, {"role": "user", "content": question.text})
    return Prompt(question.id, messages, columns, tuple(tokenize(messages)), text=None)


def _system(prompt: str | None) -> tuple[Message, ...]:
    return () if prompt is None else ({"role": "system", "content": prompt},)
