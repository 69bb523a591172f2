import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rewards.errors import RewardError, TaskError
from rewards.function import RewardFunction
from rewards.prompts import Prompt
from tests.tiny import make_tiny_model

TEXT = Prompt("sums-0", ({"role": "user", "content": "1 + 1?"},), {"answer": "2"}, (1, 2), text="1 + 1?")
CHAT = Prompt("sums-1", ({"role": "user", "content": "1 + 1?"},), {"answer": "2"}, (1, 2), text=None)

Make = Callable[..., RewardFunction]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A reward function `f` from the text of its file."""
    made = []

    def make(source: str, timeout: float = 30.0, name: str = "f") -> RewardFunction:
        path = tmp_path / "rules.py"
        path.write_text(source)
        made.append(RewardFunction(f"{path}:{name}", timeout))
        return made[-1]

    yield make
    for function in made:
        function.close()


def call(function: RewardFunction, *texts: str, prompt: Prompt = TEXT) -> tuple[float | None, ...]:
    return function(prompt, texts, [[7]] * len(texts)).values


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_a_trl_function_gets_what_trl_gives_for_text(make: Make) -> None:
    function = make("""
def f(prompts, completions, answer, **kwargs):
    assert prompts == ["1 + 1?"] * 3, prompts
    assert kwargs.pop("completion_ids") == [[7]] * 3
    assert sorted(kwargs) == ["log_extra", "log_metric", "trainer_state"], kwargs
    return [1.0 if text == right else 0 for text, right in zip(completions, answer)]
""")
    assert call(function, "2", "3", "2") == (1.0, 0.0, 1.0)


def test_a_trl_function_gets_what_trl_gives_for_messages(make: Make) -> None:
    function = make("""
def f(completions, prompts, **kwargs):
    assert prompts == [[{"role": "user", "content": "1 + 1?"}]] * 2
    return [float(turn == {"role": "assistant", "content": "2"}) for (turn,) in completions]
""")
    assert call(function, "2", "3", prompt=CHAT) == (1.0, 0.0)


def test_a_function_without_kwargs_gets_what_it_names(make: Make) -> None:
    assert call(make("def f(completions): return [len(text) for text in completions]"), "ab", "") == (
        2.0,
        0.0,
    )


@pytest.mark.parametrize("name", ["rewards", "json", "signal"])
def test_the_file_may_have_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("import json\ndef f(completions): return [1.0 for _ in completions]")
    function = RewardFunction(f"{tmp_path}/{name}.py:f", 30.0)
    assert call(function, "a") == (1.0,)
    function.close()


def test_an_async_function_is_awaited(make: Make) -> None:
    source = "import asyncio\nasync def f(completions, **kwargs):\n    await asyncio.sleep(0)\n    return [True]"
    assert call(make(source), "a") == (1.0,)


def test_none_means_that_it_does_not_apply(make: Make) -> None:
    assert call(make("def f(completions, **kwargs): return [None, 1.0]"), "a", "b") == (None, 1.0)


def test_an_object_and_a_class_that_can_be_called_are_functions(make: Make) -> None:
    source = """
class Length:
    def __init__(self, scale=1.0): self.scale = scale
    def __call__(self, completions, **kwargs): return [self.scale * len(text) for text in completions]
class Later(Length):
    async def __call__(self, completions, **kwargs): return [2.0 * len(text) for text in completions]
half = Length(0.5)
"""
    assert call(make(source, name="Length"), "abc") == (3.0,)
    assert call(make(source, name="half"), "abc") == (1.5,)
    assert call(make(source, name="Later"), "abc") == (6.0,)


def test_what_a_function_logs_comes_with_its_rewards(make: Make) -> None:
    source = """
def f(completions, log_metric, log_extra, trainer_state, **kwargs):
    log_metric("near", 0.25)
    log_metric("near", 0.75)
    log_extra("length", [len(text) for text in completions])
    log_extra("too short", [1])
    return [float(trainer_state.global_step)] * len(completions)
"""
    given = make(source)(TEXT, ["a", "bc"], [[7]] * 2, policy_version=3)
    assert given.values == (3.0, 3.0)
    assert given.metrics == {"near": 0.5} and given.extra == {"length": ("1", "2")}
    plain = make("def f(completions, trainer_state): return [float(trainer_state.global_step)] * len(completions)")
    assert call(plain, "a") == (0.0,)


def test_a_reward_model_scores_prompts_with_their_completions(tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    name = make_tiny_model(tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.save_pretrained(tmp_path / "judge")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    config.num_labels = 1
    torch.manual_seed(0)
    classifier = LlamaForSequenceClassification(config).eval()
    classifier.save_pretrained(tmp_path / "judge")
    function = RewardFunction(str(tmp_path / "judge"), 60.0)
    try:
        function.check(())
        given = function(TEXT, [" yes", " no", " a b c d e f"], [[7]] * 3).values
        chat = function(CHAT, [" yes"], [[7]]).values
    finally:
        function.close()
    for text, value in zip([" yes", " no", " a b c d e f"], given, strict=True):
        with torch.inference_mode():
            alone = classifier(**tokenizer("1 + 1?" + text, return_tensors="pt")).logits[0, 0].item()
        assert value == pytest.approx(alone, abs=1e-5)
    assert len(set(given)) == 3 and chat != given[:1]
    with pytest.raises(TaskError, match="so the name of a reward model, cannot be used"):
        RewardFunction(str(tmp_path / "nobody"), 60.0).check(())


def test_numpy_numbers_are_numbers(make: Make) -> None:
    source = "import numpy as np\ndef f(completions): return np.arange(len(completions))"
    assert call(make(source), "a", "b") == (0.0, 1.0)


def test_the_file_may_import_its_neighbours_and_keep_state(make: Make, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("calls = []")
    source = "from neighbour import calls\ndef f(**kwargs):\n    calls.append(1)\n    return [len(calls)]"
    function = make(source)
    assert [call(function, "a"), call(function, "b")] == [(1.0,), (2.0,)]


def test_a_function_may_use_signals_as_math_verifiers_do(make: Make) -> None:
    function = make("""
import signal, time
def stop(*_): raise TimeoutError
def f(**kwargs):
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try: time.sleep(20)
    except TimeoutError: return [0.5]
""")
    assert call(function, "a") == (0.5,)


def test_it_can_be_sent_to_another_process(make: Make) -> None:
    function = make("def f(**kwargs): return [3]")
    assert call(function, "a") == (3.0,)
    copy = pickle.loads(pickle.dumps(function))
    assert call(copy, "a") == (3.0,)
    copy.close()


FAILING = {
    "raises": (
        "def f(**kwargs):\n    return [1 / 0]",
        "raised ZeroDivisionError: division by zero (line 2)",
        "Correct the function",
    ),
    "exits": ("import sys\ndef f(**kwargs): sys.exit(3)", "raised SystemExit: 3", "Correct the function"),
    "crashes": (
        "import os\ndef f(**kwargs): os._exit(3)",
        "ended its process (exit status 3)",
        "Correct the function",
    ),
    "too few": (
        "def f(**kwargs): return [1.0]",
        "returned 1 values for 2 completions",
        "one number for each",
    ),
    "too many": (
        "def f(**kwargs): return [1.0] * 3",
        "returned more than 2 values for 2 completions",
        "one number for each",
    ),
    "not a list": (
        "def f(**kwargs): return 1.0",
        "returned float (1.0), not a list of numbers",
        "Correct the function",
    ),
    "nothing": ("def f(**kwargs): pass", "returned NoneType (None), not a list", "Correct the function"),
    "NaN": (
        "def f(**kwargs): return [0.0, float('nan')]",
        "returned nan, which is not a finite number",
        "Return a number",
    ),
    "infinity": ("def f(**kwargs): return [0.0, float('inf')]", "returned inf", "Return a number"),
    "text": (
        "def f(**kwargs): return [0.0, 'good']",
        "returned 'good', which is not a finite number",
        "Return a number",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_failing_function_is_named_with_input_and_remedy(case: str, make: Make) -> None:
    source, problem, remedy = FAILING[case]
    with pytest.raises(RewardError) as failed:
        call(make(source), "good answer", "bad answer " + "x" * 1000)
    message = str(failed.value)
    assert "rules.py:f" in message and problem in message and remedy in message
    assert "prompt sums-0 ('1 + 1?')" in message and "'bad answer" in message
    assert len(message) < 1000


@pytest.mark.parametrize("case", ["NaN", "text"])
def test_the_completion_with_a_bad_reward_is_the_one_shown(case: str, make: Make) -> None:
    with pytest.raises(RewardError) as failed:
        call(make(FAILING[case][0]), "good answer", "bad answer")
    assert "'bad answer'" in str(failed.value) and "good answer" not in str(failed.value)


HANGING = {
    "sleep": "import time\ndef f(**kwargs): time.sleep(600)",
    "loop": "def f(**kwargs):\n    while True: pass",
    "regular expression that holds the lock": "import re\ndef f(**kwargs): re.match('(a+)+b', 'a' * 60)",
    "ignored signals": "import signal as s\ns.signal(15, s.SIG_IGN)\ndef f(**kwargs):\n    while True: pass",
}


@pytest.mark.parametrize("case", HANGING)
def test_a_hanging_function_is_ended_and_the_caller_goes_on(case: str, make: Make, tmp_path: Path) -> None:
    source = f"import os\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n" + HANGING[case]
    function = make(source, timeout=0.3)
    start = time.monotonic()
    with pytest.raises(
        RewardError, match=r"rules.py:f did not return within 0.3 s and was ended for prompt sums-0"
    ) as failed:
        call(function, "a")
    assert time.monotonic() - start < 20
    assert "raise task.reward_timeout" in str(failed.value)
    assert gone(int((tmp_path / "pid").read_text()))


def test_after_a_timeout_the_next_call_works(make: Make, tmp_path: Path) -> None:
    source = f"""
import pathlib, time
mark = pathlib.Path({str(tmp_path / "mark")!r})
def f(**kwargs):
    if not mark.exists():
        mark.touch()
        time.sleep(600)
    return [1.0]
"""
    function = make(source, timeout=1.0)
    with pytest.raises(RewardError):
        call(function, "a")
    assert call(function, "a") == (1.0,)


@pytest.mark.parametrize("ending", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_no_process_is_left_behind_when_the_owner_ends(ending: str, make: Make, tmp_path: Path) -> None:
    function = make("import os\ndef f(**kwargs): return [os.getpid()]")
    code = f"""
import os, signal
from rewards.function import RewardFunction
from rewards.prompts import EXAMPLE_PROMPT
function = RewardFunction({function.spec!r}, 30.0)
print(int(function(EXAMPLE_PROMPT, ["a"], [[1]]).values[0]), flush=True)
{ending}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == (0 if ending == "pass" else -signal.SIGKILL), done.stderr
    assert gone(int(done.stdout))


IMPORTS = {
    "syntax": ("def f(:", "cannot be used: it raised SyntaxError"),
    "missing module": (
        "import no_such_module",
        "raised ModuleNotFoundError: No module named 'no_such_module' (line 1)",
    ),
    "missing function": ("def g(): pass\nclass H: pass", "there is no function `f` in it; it has g"),
    "not a function": ("f = 3", "there is no function `f` in it; it has none"),
    "exits": ("import sys; sys.exit(0)", "raised SystemExit: 0"),
    "missing column": (
        "def f(completions, solution): ...",
        "requires the argument `solution`, which is not a column of the data set; it has answer",
    ),
}


@pytest.mark.parametrize("case", IMPORTS)
def test_a_function_that_cannot_be_used_is_refused(case: str, make: Make) -> None:
    source, message = IMPORTS[case]
    with pytest.raises(TaskError) as refused:
        make(source).check(["answer"])
    assert "task.reward: " in str(refused.value) and "rules.py:f" in str(refused.value)
    assert message in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"task.reward: .*none.py:f: there is no file .*none.py"):
        RewardFunction(f"{tmp_path}/none.py:f", 1.0).check([])


def test_defaults_and_kwargs_ask_for_no_column(make: Make) -> None:
    make("def f(completions, solution=None, **kwargs): ...").check([])
