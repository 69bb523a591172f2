"""The ranks' processes, which run jobs on the real DeepSpeed: forks of one that has imported it."""

import multiprocessing
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from configs.schema import TrainingSettings
from generation.buckets import pack as pack_weights
from generation.buckets import unpack
from trainer.signal.advantages import Lesson
from trainer.signal.step_size import WHOLE, StepSize
from trainer.update.forest import pack
from trainer.update.rank import Rank, RankSpec, UpdateError
from trainer.update.report import RankReport


@dataclass(frozen=True)
class Job:
    """What a new `Rank` is to do: an update for each of `steps`, in turn.

    load: go on from what a job of another name saved, and how many updates that had made. save: afterwards.
    lagged: see `RankSpec`. step_sizes: of each update (`Rank.update`); whole ones without them.
    """

    name: str
    model: str
    training: TrainingSettings
    steps: tuple[tuple[Lesson, ...], ...]
    dtype: str = "float32"
    max_steps: int | None = None
    load: tuple[str, int] | None = None
    save: bool = False
    lagged: bool = False
    step_sizes: tuple[StepSize, ...] = ()


@dataclass(frozen=True)
class Done:
    """What came of it on one rank.

    micro_batches: of each step, on this rank. error: of the update that was refused, which ends the job.
    """

    reports: tuple[RankReport, ...]
    weights: dict[str, torch.Tensor]
    micro_batches: tuple[int, ...]
    error: str | None


def main(path: Path, ranks: int) -> None:
    """Reads the jobs from the file at `path`; writes what each rank did beside it, as `.0`, `.1` and so on."""
    import deepspeed  # noqa: F401
    import transformers  # noqa: F401

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_rank, args=(path, rank)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))


def _rank(path: Path, rank: int) -> None:
    jobs = pickle.loads(path.read_bytes())
    done = {job.name: _run(job, rank, path) for job in jobs}
    path.with_suffix(f".{rank}").write_bytes(pickle.dumps(done))


def _run(job: Job, rank: int, path: Path) -> Done:
    spec = RankSpec(
        rank=rank,
        model=job.model,
        revision=None,
        dtype=job.dtype,
        trust_remote_code=False,
        gpu=False,
        training=job.training,
        max_completion_length=8,
        max_steps=job.max_steps,
        rendezvous=f"file:{path}.rendezvous",
        timeout=60.0,
        seed=0,
        lagged=job.lagged,
        yields=False,
    )
    worker = Rank(spec)
    if job.load:
        name, updates = job.load
        worker.load(str(path.parent / name), updates)
    reports, micro_batches, error = [], [], None
    for lessons, step_size in zip(job.steps, job.step_sizes or [WHOLE] * len(job.steps), strict=True):
        batch = pack(lessons, job.training.ranks, job.training.micro_batch_tokens)
        micro_batches.append(len(batch.forests[rank]))
        try:
            reports.append(worker.update(batch.forests[rank], batch.num_samples, batch.num_tokens, step_size))
        except UpdateError as refusal:
            error = str(refusal)
            break
    if job.save:
        worker.save(str(path.parent / job.name), len(job.steps))
    # As they are published. Buckets do not copy, and ZeRO stage 3 takes each weight apart again after its turn.
    buckets = list(pack_weights(worker.published()))
    weights = {name: weight.clone() for data, layout in buckets for name, weight in unpack(data, layout)}
    return Done(tuple(reports), weights, tuple(micro_batches), error)
