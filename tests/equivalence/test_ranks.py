"""One step is the same step however it is shared out, with the real DeepSpeed over gloo.

One set of processes for each number of ranks runs all jobs in turn: starting them is what takes the time.
"""

import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers.models.auto import AutoModelForCausalLM

from configs.schema import TrainingSettings
from tests.equivalence.dense import make_lesson
from tests.equivalence.rank_process import Done, Job
from tests.tiny import VOCABULARY, load_tiny_model, make_tiny_model
from trainer.signal.advantages import Lesson
from trainer.signal.step_size import StepSize
from trainer.update.report import together

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[2]
LEARNING_RATE = 1e-3
NODES = 24
"""Size of a micro-batch: one of `lessons` fills it."""


def lessons(count: int, seed: int) -> tuple[Lesson, ...]:
    """Groups whose trees nearly fill a micro-batch each, at several temperatures."""
    draw = random.Random(seed)

    def tokens(length: int) -> list[int]:
        return [draw.randrange(len(VOCABULARY)) for _ in range(length)]

    return tuple(
        make_lesson(
            tokens(9),
            [(tokens(length), draw.randint(1, 60), reward) for length, reward in ((4, 1.0), (5, -0.5), (6, -1.0))],
            temperature,
        )
        for _, temperature in zip(range(count), (1.0, 1.4, 0.7, 1.0), strict=False)
    )


STEPS = (lessons(4, 1), lessons(4, 2))
SHORT = (StepSize(0.25), StepSize(steep=1e-6))
UNEVEN = (lessons(3, 3), lessons(3, 4))
ONE = (lessons(1, 5),)
MANY = {1: 512, 2: 64}
"""Micro-batches on each of so many ranks: powers of two, by which bfloat16 divides without rounding. A sum of 512
terms in it gains nothing from another."""


def recalled(lesson: Lesson) -> Lesson:
    """The lesson, had the engine sampled none of its completions."""
    unknown = tuple(
        replace(completion, logprobs=np.full_like(completion.logprobs, np.nan))
        for completion in lesson.scored.group.completions
    )
    return replace(lesson, scored=replace(lesson.scored, group=replace(lesson.scored.group, completions=unknown)))


def job(name: str, ranks: int, zero_stage: int, steps: Any = STEPS, dtype: str = "float32", **training: Any) -> Job:
    settings: dict[str, Any] = {"learning_rate": LEARNING_RATE, "micro_batch_tokens": NODES} | training
    return Job(name, "", TrainingSettings(ranks=ranks, zero_stage=zero_stage, **settings), steps, dtype)


def resumed(ranks: int, zero_stage: int, dtype: str = "float32", **training: Any) -> list[Job]:
    """Four updates at once, and the same with an end in the middle."""
    name = f"{ranks} ranks, zero {zero_stage}, {dtype}{', lora' if 'lora_rank' in training else ''}"
    whole = replace(job(f"{name}: whole", ranks, zero_stage, STEPS * 2, dtype, **training), max_steps=5)
    begun = replace(whole, name=f"{name}: begun", steps=STEPS, save=True)
    return [whole, begun, replace(begun, name=f"{name}: ended", load=(begun.name, 2), save=False)]


HARDER: dict[str, Any] = {"num_iterations": 2, "beta": 0.1, "epsilon": 0.01}
LORA: dict[str, Any] = {"lora_rank": 4, "learning_rate": 1e-2}
BROKEN = (replace(STEPS[0][0], advantages=np.array([1.0, math.inf, 0.0])), *STEPS[0][1:])
JOBS = {
    1: [
        job("zero 1", 1, 1),
        job("uneven", 1, 1, UNEVEN, loss_type="dapo"),
        job("harder", 1, 1, **HARDER),
        replace(job("lagged", 1, 1, **HARDER), lagged=True),
        job("broken", 1, 1, (BROKEN,)),
        job("nothing", 1, 1, ()),
        job("one step", 1, 1, STEPS[:1]),
        replace(job("short steps, zero 1", 1, 1), step_sizes=SHORT),
        job("as sampled", 1, 1, STEPS[:1], vllm_importance_sampling_mode="off"),
        job("recalled", 1, 1, (tuple(map(recalled, STEPS[0])),)),
        job("twelve", 1, 1, STEPS * 6, learning_rate=1e-4),
        job("bfloat16", 1, 1, STEPS * 6, "bfloat16", learning_rate=1e-4),
        job("bfloat16, one step", 1, 1, STEPS[:1], "bfloat16", learning_rate=1e-4),
        *(job(f"one, {dtype}", 1, 1, ONE, dtype) for dtype in ("float32", "bfloat16")),
        *(job(f"many, zero 1, {dtype}", 1, 1, (ONE[0] * MANY[1],), dtype) for dtype in ("float32", "bfloat16")),
        *(one for dtype in ("float32", "bfloat16") for one in resumed(1, 1, dtype)),
        job("lora", 1, 1, **HARDER, **LORA),
        job("lora without a reference", 1, 1, num_iterations=2, epsilon=0.01, **LORA),
        *(one for dtype in ("float32", "bfloat16") for one in resumed(1, 1, dtype, **LORA)),
    ],
    2: [
        *(job(f"zero {stage}", 2, stage) for stage in range(4)),
        *(replace(job(f"short steps, zero {stage}", 2, stage), step_sizes=SHORT) for stage in (0, 2, 3)),
        *(job(f"uneven, zero {stage}", 2, stage, UNEVEN, loss_type="dapo") for stage in (0, 2, 3)),
        *(job(f"harder, zero {stage}", 2, stage, **HARDER) for stage in (1, 3)),
        *(job(f"bfloat16, zero {stage}", 2, stage, STEPS * 6, "bfloat16", learning_rate=1e-4) for stage in range(4)),
        *(job(f"many, zero {stage}, bfloat16", 2, stage, (ONE[0] * MANY[2] * 2,), "bfloat16") for stage in (2, 3)),
        *(one for stage in range(4) for one in resumed(2, stage, **HARDER, lr_scheduler_type="cosine")),
        *(one for stage in range(1, 4) for one in resumed(2, stage, "bfloat16")),
        *(job(f"lora, zero {stage}", 2, stage, **HARDER, **LORA) for stage in range(4)),
        *(one for stage in (0, 3) for one in resumed(2, stage, **HARDER, **LORA)),
        *resumed(2, 3, "bfloat16", **LORA),
        replace(job("of one rank", 2, 1), load=("1 ranks, zero 1, float32: begun", 2)),
    ],
    4: [job(f"zero {stage}", 4, stage) for stage in range(4)],
}

Results = Callable[[int, str], list[Done]]
"""Number of ranks, name of a job -> what each rank did."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the model, and what jobs save under their names."""
    folder = tmp_path_factory.mktemp("ranks")
    make_tiny_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    model = str(folder / "model")
    done: dict[int, list[dict[str, Done]]] = {}

    def get(ranks: int, name: str) -> list[Done]:
        if ranks == 2:
            get(1, "nothing")  # what one rank saved two go on with
        if ranks not in done:
            done[ranks] = launch(folder / f"{ranks}.jobs", [replace(job, model=model) for job in JOBS[ranks]], ranks)
        return [rank[name] for rank in done[ranks]]

    return get


def launch(path: Path, jobs: Sequence[Job], ranks: int) -> list[dict[str, Done]]:
    path.write_bytes(pickle.dumps(jobs))
    log = path.with_suffix(".log")
    call = f"from tests.equivalence.rank_process import *; main(Path({str(path)!r}), {ranks})"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", call],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        assert process.wait(timeout=200) == 0, log.read_text()[-4000 * ranks :]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return [pickle.loads(path.with_suffix(f".{rank}").read_bytes()) for rank in range(ranks)]


def start(results: Results) -> dict[str, torch.Tensor]:
    (done,) = results(1, "nothing")
    return done.weights


def assert_same_steps(ours: Sequence[Done], theirs: Sequence[Done], before: dict[str, torch.Tensor]) -> None:
    """Of the same weights, the same updates.

    The gradient's length shows in `grad_norm`, and AdamW's step hides it: it is nearly learning_rate × sign(gradient)
    at first. So weights show the direction, but rounding decides it where a gradient nearly cancels: one weight in a
    thousand may differ.
    """
    assert_same_reports(ours, theirs)
    for other in ours[1:]:
        assert all(torch.equal(weight, ours[0].weights[name]) for name, weight in other.weights.items())
    assert ours[0].weights.keys() == theirs[0].weights.keys() == before.keys()
    moved, apart = [], []
    for name, weight in theirs[0].weights.items():
        assert not torch.equal(weight, before[name]), name
        moved.append((weight - before[name]).abs().flatten())
        apart.append((weight - ours[0].weights[name]).abs().flatten())
    assert (torch.cat(moved) > 0.1 * LEARNING_RATE).float().mean() > 0.5
    assert (torch.cat(apart) > 0.001 * LEARNING_RATE).float().mean() < 0.001


def assert_same_reports(ours: Sequence[Done], theirs: Sequence[Done]) -> None:
    """Of the same steps, but for rounding."""
    for step, reports in enumerate(zip(*(done.reports for done in ours), strict=True)):
        (expected,) = {together([done.reports[step] for done in theirs])}
        found = together(reports)
        for field in ("loss", "kl", "clip_fraction", "logprob_gap", "learning_rate"):
            # The second step starts from the first one's weights.
            assert getattr(found, field) == pytest.approx(getattr(expected, field), rel=1e-4, abs=1e-6), field
        assert found.grad_norm > 0
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5 if step == 0 else 1e-4)
        assert len({report.grad_norm for report in reports}) == 1


@pytest.mark.parametrize(("ranks", "zero_stage"), [(1, 1), (2, 0), (2, 2), (2, 3)])
def test_an_update_may_be_a_short_step(results: Results, ranks: int, zero_stage: int) -> None:
    """A quarter of a whole one, and then, since the gradient is so much longer than that, hardly any: each is of the
    learning rate itself."""
    done, (once,), before = results(ranks, f"short steps, zero {zero_stage}"), results(1, "one step"), start(results)
    lengths = []
    for name, weight in once.weights.items():
        whole = weight - before[name]
        lengths.append(((done[0].weights[name] - before[name]) / whole)[whole.abs() > 0.5 * LEARNING_RATE])
    assert float(torch.cat(lengths).median()) == pytest.approx(0.25, rel=0.01)
    for size, report in zip(SHORT, done[0].reports, strict=True):
        assert report.learning_rate == pytest.approx(
            LEARNING_RATE * size.share * min(1.0, size.steep / report.grad_norm)
        )


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_and_any_zero_stage_make_the_same_step(
    results: Results, ranks: int, zero_stage: int
) -> None:
    ours = results(ranks, f"zero {zero_stage}")
    assert [done.micro_batches for done in ours] == [(4 // ranks,) * 2] * ranks
    assert_same_steps(ours, results(1, "zero 1"), start(results))


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_rank_may_have_less_to_do(results: Results, zero_stage: int) -> None:
    """Three micro-batches on two ranks: one is empty. The loss divides by the tokens of all of them."""
    ours = results(2, f"uneven, zero {zero_stage}")
    assert [done.micro_batches for done in ours] == [(2, 2)] * 2
    assert_same_steps(ours, results(1, "uneven"), start(results))


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_several_iterations_with_a_reference(results: Results, zero_stage: int) -> None:
    theirs = results(1, "harder")
    assert theirs[0].reports[0].kl > 0
    assert theirs[0].reports[0].clip_fraction > 0
    assert_same_steps(results(2, f"harder, zero {zero_stage}"), theirs, start(results))


def test_weights_are_the_models_own(results: Results, tmp_path: Path) -> None:
    model = load_tiny_model(make_tiny_model(tmp_path))
    expected = dict(model.named_parameters())
    assert start(results).keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in start(results).items())


def test_a_loss_that_is_no_number_is_refused(results: Results) -> None:
    (done,) = results(1, "broken")
    assert done.error is not None
    assert done.error.startswith("The loss on rank 0 is ")
    assert "training.learning_rate 0.001 is the likely cause: lower it" in done.error
    assert all(torch.equal(weight, start(results)[name]) for name, weight in done.weights.items())


def test_what_was_not_sampled_weighs_what_the_policy_gives_it(results: Results) -> None:
    (done,), (expected,) = results(1, "recalled"), results(1, "as sampled")
    assert done.reports[0].logprob_gap == 0.0 < expected.reports[0].logprob_gap
    assert done.reports[0].loss == pytest.approx(expected.reports[0].loss)
    assert all(torch.equal(weight, expected.weights[name]) for name, weight in done.weights.items())


def test_the_kl_of_what_an_earlier_policy_sampled_is_weighed(results: Results) -> None:
    """In the first iteration it is 0."""
    (done,), (expected,) = results(1, "lagged"), results(1, "harder")
    assert done.reports[0].kl > 0
    assert abs(done.reports[0].loss - expected.reports[0].loss) > 1e-6


def test_bfloat16_weights_have_float32_masters(results: Results) -> None:
    """Twelve steps, each far below bfloat16's resolution for most weights, add up as they do in float32. Without
    masters they would be rounded away one by one."""
    before = start(results)
    # A weight between 0.25 and 0.5 is a multiple of 0.001 or so.
    large = {name: (weight.abs() > 0.25) & (weight.abs() < 0.5) for name, weight in before.items()}

    def moved(done: Done) -> torch.Tensor:
        """[weights] how far."""
        changes = []
        for name, weight in done.weights.items():
            change = weight.float() - before[name].to(weight.dtype).float()
            changes.append(change[large[name]])
        return torch.cat(changes)

    (twelve,), (single,) = results(1, "twelve"), results(1, "bfloat16, one step")
    assert (moved(single) != 0).float().mean() < 0.2
    expected = moved(twelve)
    far = expected.abs() > 0.0009
    assert far.float().mean() > 0.3
    for ours in (results(1, "bfloat16"), *(results(2, f"bfloat16, zero {stage}") for stage in range(4))):
        for done in ours:
            assert all(weight.dtype == torch.bfloat16 for weight in done.weights.values())
            assert all(math.isfinite(report.loss) and report.grad_norm > 0 for report in done.reports)
            found = moved(done)[far]
            assert torch.corrcoef(torch.stack([found, expected[far]]))[0, 1] > 0.7
            assert found.abs().mean() > 0.5 * expected[far].abs().mean()


@pytest.mark.parametrize(
    ("ranks", "zero_stage", "dtype"), [(1, 1, "float32"), (1, 1, "bfloat16"), (2, 2, "bfloat16"), (2, 3, "bfloat16")]
)
def test_gradients_of_many_micro_batches_add_up(results: Results, ranks: int, zero_stage: int, dtype: str) -> None:
    """The same group over and over has the gradient of one."""
    (one,) = results(1, f"one, {dtype}")
    for many in results(ranks, f"many, zero {zero_stage}, {dtype}"):
        assert many.micro_batches == (MANY[ranks],)
        assert many.reports[0].grad_norm == pytest.approx(one.reports[0].grad_norm, rel=1e-4)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_adapters_make_the_same_step(results: Results, zero_stage: int) -> None:
    """And only the layers that have one change, whatever the number of ranks and the stage."""
    ours, theirs, before = results(2, f"lora, zero {zero_stage}"), results(1, "lora"), start(results)
    assert_same_reports(ours, theirs)
    assert ours[0].weights.keys() == theirs[0].weights.keys() == before.keys()
    changed = {name for name, weight in theirs[0].weights.items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if "proj" in name}
    for done in ours:
        assert all(torch.equal(done.weights[name], before[name]) for name in before.keys() - changed)
        for name in changed:
            moved = theirs[0].weights[name] - before[name]
            assert (done.weights[name] - theirs[0].weights[name]).norm() < 1e-3 * moved.norm(), name


def test_the_reference_is_the_model_without_its_adapter(results: Results) -> None:
    """B is 0 at first: what the policy differs by from then on is the adapter."""
    (with_kl,), (without,) = results(1, "lora"), results(1, "lora without a reference")
    assert min(report.kl for report in with_kl.reports) > 0 == without.reports[1].kl
    assert with_kl.reports[1].grad_norm != without.reports[1].grad_norm


@pytest.mark.parametrize(("ranks", "zero_stage", "dtype"), [(1, 1, "float32"), (1, 1, "bfloat16"), (2, 3, "float32")])
def test_the_saved_adapter_is_the_published_model(
    results: Results, folder: Path, ranks: int, zero_stage: int, dtype: str
) -> None:
    name = f"{ranks} ranks, zero {zero_stage}, {dtype}, lora: begun"
    published = results(ranks, name)[0].weights
    merged = AutoModelForCausalLM.from_pretrained(folder / name / "model", dtype=getattr(torch, dtype))
    assert published.keys() == dict(merged.named_parameters()).keys()
    assert all(torch.equal(weight, published[key]) for key, weight in merged.named_parameters())

    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, dtype))
    adapter = PeftModel.from_pretrained(base, str(folder / name / "model" / "adapter"))
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    single = dtype == "float32"
    gap = (adapter(input_ids=ids).logits - merged(input_ids=ids).logits).abs().max()
    assert gap < (1e-4 if single else 0.2) < merged(input_ids=ids).logits.abs().max() / 10
    for key, weight in adapter.merge_and_unload().named_parameters():
        # peft rounds B A to bfloat16 before it adds it, and after.
        torch.testing.assert_close(weight, published[key], rtol=0 if single else 2**-7, atol=0 if single else 2**-9)


def test_a_checkpoint_has_the_optimizer_of_the_adapter_alone(results: Results, folder: Path) -> None:
    name = "1 ranks, zero 1, float32, lora: begun"
    results(1, name)
    record = json.loads((folder / name / "optimizer.json").read_text())
    assert len(record["files"]) == 3 * 2 * 14  # master and moments, A and B, 7 layers of each of 2 blocks
    assert all(".lora_" in key for key in record["files"])


RESUMED = [(1, 1, "float32"), (1, 1, "bfloat16")]
RESUMED += [*((2, stage, "float32") for stage in range(4)), *((2, stage, "bfloat16") for stage in range(1, 4))]
RESUMED += [(1, 1, "float32, lora"), (1, 1, "bfloat16, lora")]
RESUMED += [(2, 0, "float32, lora"), (2, 3, "float32, lora"), (2, 3, "bfloat16, lora")]


@pytest.mark.parametrize(("ranks", "zero_stage", "dtype"), RESUMED)
def test_going_on_from_a_checkpoint_is_going_on(results: Results, ranks: int, zero_stage: int, dtype: str) -> None:
    """To the bit, with two ranks with several iterations, a KL divergence and a falling learning rate."""
    name = f"{ranks} ranks, zero {zero_stage}, {dtype}"
    for whole, begun, ended in zip(*(results(ranks, f"{name}: {part}") for part in PARTS), strict=True):
        assert whole.reports == (*begun.reports, *ended.reports)
        assert len(whole.reports) == 4
        assert whole.weights.keys() == ended.weights.keys()
        assert all(torch.equal(weight, ended.weights[key]) for key, weight in whole.weights.items())
        assert not all(torch.equal(weight, ended.weights[key]) for key, weight in begun.weights.items())


def test_another_number_of_ranks_goes_on(results: Results) -> None:
    (whole,) = results(1, "1 ranks, zero 1, float32: whole")
    (begun,) = results(1, "1 ranks, zero 1, float32: begun")
    ours = results(2, "of one rank")
    assert_same_steps(ours, [replace(whole, reports=whole.reports[2:])], begun.weights)


PARTS = ("whole", "begun", "ended")
