"""Scoring by the task, beside sampling."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from itertools import cycle
from queue import Empty, SimpleQueue
from threading import Thread

from generation.groups import Group
from rewards.errors import RewardLost
from rewards.task import Task
from trainer.scored import ScoredGroup

PATIENCE = 1.0
"""Seconds that the end of a run waits for a call."""


class TaskScorer:
    """`trainer.ports.Scorer`: threads that ask the task, each with reward functions of its own, which run in
    processes of their own.

    Groups go to the threads in turn, so that with the same groups in the same order every reward function is asked
    the same, whatever comes when.

    lost: told of a process that was lost, in a thread; unless it raises, the group is scored once more, in another
    process. Without it that is an error like others.
    """

    def __init__(self, task: Task, workers: int, lost: Callable[[RewardLost], None] | None = None) -> None:
        judges = [task.judge, *(deepcopy(task.judge) for _ in range(workers - 1))]
        self._workers = [_Worker(replace(task, judge=judge), lost) for judge in judges]
        self._turns = cycle(self._workers)
        self._begun: dict[int, tuple[Group, Future[ScoredGroup]]] = {}  # by the group's id, which stays its own so

    def begin(self, group: Group) -> None:
        """Has the group scored while others are still sampled; the next `score` asks for it."""
        self._begun[id(group)] = group, next(self._turns).ask(group)

    def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        """See `Scorer.score`. Raises RewardError."""
        for group in groups:
            if id(group) not in self._begun:
                self.begin(group)
        begun, self._begun = self._begun, {}
        return tuple(begun[id(group)][1].result() for group in groups)

    def close(self) -> None:
        """Ends the threads, and with the last who knows them the reward functions' processes. A call that takes
        longer is left to end by itself."""
        for worker in self._workers:
            worker.end()


class _Worker:
    """A thread that scores one group after another. It does not outlive the program, whatever its call waits for."""

    def __init__(self, task: Task, lost: Callable[[RewardLost], None] | None) -> None:
        self._task, self._lost = task, lost
        self._asked: SimpleQueue[tuple[Group, Future[ScoredGroup]] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="scoring", daemon=True)
        self._thread.start()

    def ask(self, group: Group) -> "Future[ScoredGroup]":
        answer: Future[ScoredGroup] = Future()
        self._asked.put((group, answer))
        return answer

    def end(self) -> None:
        self._asked.put(None)
        self._thread.join(PATIENCE)

    def _work(self) -> None:
        while asked := self._asked.get():
            group, answer = asked
            try:
                answer.set_result(self._score(group))
            except Exception as error:  # noqa: BLE001 - the owner gets it
                answer.set_exception(error)
                self._give_up(error)

    def _score(self, group: Group) -> ScoredGroup:
        try:
            return _scored(self._task, group)
        except RewardLost as error:
            if self._lost is None:
                raise
            self._lost(error)
            return _scored(self._task, group)

    def _give_up(self, error: Exception) -> None:
        """On what else was asked by now: it would fail as well, or come to nothing, because the run ends."""
        with suppress(Empty):
            while asked := self._asked.get_nowait():
                asked[1].set_exception(error)
            self._asked.put(None)


def _scored(task: Task, group: Group) -> ScoredGroup:
    verdicts = task.score(
        group.prompt,
        [completion.text for completion in group.completions],
        [completion.finish_reason == "length" for completion in group.completions],
        [completion.token_ids for completion in group.completions],
        group.policy_version,
    )
    return ScoredGroup(group, verdicts)
