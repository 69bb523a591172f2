"""A run of `cohort train`: from its processes' start to its result, in as many attempts as that takes."""

from contextlib import closing

from launch import checkpoint, preflight, resume
from launch.checkpoint import Checkpoint, Record
from launch.errors import INTERRUPTED, FolderError, ProcessError, ProcessLost, RemoteError
from launch.interruption import Interruption
from launch.keeper import Keeper, evaluated
from launch.limited import limited
from launch.logger.display import Display
from launch.logger.run_folder import RunFolder
from launch.logger.run_logger import RunLogger
from launch.logger.tracking import trackers
from launch.model_card import model_card
from launch.prepare import Prepared
from launch.processes import start
from launch.processes.cluster import connected
from launch.processes.restarts import Restarts
from launch.processes.watch import Watch
from launch.task_scorer import TaskScorer
from rewards.errors import RewardError, RewardLost
from trainer import loop
from trainer.ending import Result, Stop, Target
from trainer.ports import Interrupted, Ports
from trainer.run import Run
from trainer.state import RunState

REACHED, NO_SIGNAL, LIMIT = 0, 3, 4
"""Exit statuses, with `INTERRUPTED`: target reached or no target set, stopped because it cannot learn, a limit
reached before the target."""

UPLOAD_SECONDS = 3600.0
"""That the hub may take for a model."""


def exit_status(result: Result) -> int:
    """Of a run that has ended."""
    if result.stop is Stop.INTERRUPTED:
        return INTERRUPTED
    if result.stop is Stop.CANNOT_LEARN:
        return NO_SIGNAL
    return LIMIT if result.target is Target.MISSED else REACHED


class _Again(Exception):
    """All processes are to start again."""


class TrainingRun:
    """A run, with all that it may take to finish it."""

    def __init__(self, prepared: Prepared, folder: RunFolder, display: Display) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._folder = folder
        self._display = display
        self._interruption = Interruption()
        self._identity = resume.identity(prepared)
        self._scorer = TaskScorer(prepared.task, prepared.config.task.reward_workers, self._reward_lost)

    def run(self, begin: Checkpoint | None) -> int:
        """The exit status."""
        if begin:
            for difference in resume.refuse_another_run(begin, self._config, self._identity):
                self._display.alarm(difference)
        for hint in preflight.of_little_use(self._config, self._prepared.gpus):
            self._display.note(hint)
        earlier = begin.record.restarts if begin else ()
        self._restarts = Restarts(self._config.run.max_restarts, self._display.alarm, earlier)
        self._display.phase("starting Ray")
        try:
            with closing(self._scorer), connected(self._config), self._interruption.watched():
                result = self._result(begin)
        except Interrupted:
            self._display.alarm("Interrupted before there was anything to go on from.")
            return INTERRUPTED
        except (RewardError, RemoteError, FolderError) as error:
            if checkpoint.paths(self._folder.checkpoints_path):
                error.add_note(self._how_to_go_on())
            raise
        self._display.result(result, self._folder)
        if result.stop is Stop.INTERRUPTED:
            self._display.note(self._how_to_go_on())
        return exit_status(result)

    def _result(self, begin: Checkpoint | None) -> Result:
        """What came of the run, which begins again from its latest checkpoint when it loses a rank."""
        while True:
            try:
                return self._attempt(begin)
            except _Again:
                pass
            except ProcessLost as error:  # while it started
                self._lost(error)
            begin = checkpoint.latest(self._folder.checkpoints_path, self._display.alarm)

    def _lost(self, error: ProcessError) -> None:
        self._restarts.count(error, "All processes start again, from the latest checkpoint.")

    def _reward_lost(self, error: RewardLost) -> None:
        self._restarts.count(error, "It is asked once more, in another process.")

    def _attempt(self, begin: Checkpoint | None) -> Result:
        config, task, state = self._config, self._prepared.task, begin.record.state if begin else None
        self._folder.go_on(config, begin.record.sizes if begin else {})
        logger = RunLogger(self._display, self._folder, trackers(config, self._folder, state.step if state else 0))
        watch = Watch(lambda: self._interruption.requested)
        weights = (str(begin.path.absolute()), begin.record.state.policy_version) if begin else None
        try:
            with start.processes(
                self._prepared, self._display.phase, watch, self._restarts, weights, self._folder.path
            ) as (engines, ranks):
                engines.on_group = self._scorer.begin
                keeper = Keeper(
                    config,
                    self._folder,
                    ranks,
                    self._record,
                    begin,
                    self._display.alarm,
                    lambda: self._interruption.insisted,
                )
                try:
                    result = loop.train(
                        Run(config, task.prompts, task.best_reward, ranks.dtype, task.held_out, task.reward_names),
                        Ports(engines, self._scorer, ranks, engines, logger),
                        state,
                        checkpoints=keeper,
                        interrupted=lambda: self._interruption.requested,
                    )
                except ProcessError as error:
                    self._lost(error)  # told before all others are ended, which takes seconds
                    raise _Again from error
                self._finish(result, keeper)
        finally:
            logger.close()
        return result

    def _finish(self, result: Result, keeper: Keeper) -> None:
        self._folder.summary(result, self._config, self._restarts.all)
        if not self._config.run.save_model:
            return
        if keeper.latest is None or not keeper.has(result.steps):
            raise FolderError(f"The model could not be saved: {self._folder.path} could not be written.")
        self._display.phase("saving the model")
        self._folder.take_model(keeper.latest.model_path, model_card(self._config, result, self._folder.rewards()))
        if self._config.run.push_to_hub:
            self._push(self._config.run.push_to_hub)

    def _push(self, repository: str) -> None:
        """To the hub; a failure costs a warning, for the model is in the run's folder."""
        from huggingface_hub import HfApi

        self._display.phase(f"uploading the model to {repository}")

        def upload() -> None:
            hub = HfApi()
            made = hub.create_repo(repository, private=True, exist_ok=True)
            hub.upload_folder(repo_id=made.repo_id, folder_path=self._folder.model_path)

        try:
            limited(upload, UPLOAD_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever the network does, the run is done
            problem = str(error).strip().splitlines() or [type(error).__name__]
            self._display.alarm(f"run.push_to_hub: {repository} was not uploaded: {problem[0]}.")

    def _record(self, state: RunState) -> Record:
        return Record(
            state,
            evaluated(state),
            resume.settings_json(self._config),
            self._identity,
            self._folder.sizes,
            self._restarts.all,
        )

    def _how_to_go_on(self) -> str:
        return f"Go on with: cohort train --resume {self._folder.path}"
