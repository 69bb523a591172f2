"""What a reward function can reach, use up and leave behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.machine import machine_bytes
from configs.schema import LARGEST_REWARD
from rewards import guard
from rewards.errors import RewardError, TaskError
from rewards.function import RewardFunction
from rewards.output import SHOWN_BYTES, Output
from rewards.prompts import EXAMPLE_PROMPT, Prompt
from rewards.walls import scrubbed

TEXT = Prompt("sums-0", ({"role": "user", "content": "1 + 1?"},), {"answer": "2"}, (1, 2), text="1 + 1?")

Make = Callable[..., RewardFunction]

linux = pytest.mark.skipif(sys.platform != "linux", reason="what only Linux can do")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A reward function `f` from the text of its file."""
    made = []

    def make(source: str, timeout: float = 30.0, environment: tuple[str, ...] = ()) -> RewardFunction:
        path = tmp_path / "rules.py"
        path.write_text(source)
        made.append(RewardFunction(f"{path}:f", timeout, environment))
        return made[-1]

    yield make
    for function in made:
        function.close()


def call(function: RewardFunction, *texts: str) -> tuple[float | None, ...]:
    return function(TEXT, texts, [[7]] * len(texts)).values


def problem(function: RewardFunction, *texts: str) -> str:
    with pytest.raises(RewardError) as failed:
        call(function, *texts or ("a",))
    return str(failed.value)


def running(*pids: int) -> list[int]:
    """Those that have not ended."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found.append(pid)
    return found


def left(pids: list[int], patience: float = 5.0) -> list[int]:
    deadline = time.monotonic() + patience
    while running(*pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return running(*pids)


SECRETS = ("WANDB_API_KEY", "HF_TOKEN", "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "MY_KEY")


def test_secrets_do_not_reach_it_unless_they_are_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, f"secret of {name}")
    monkeypatch.setenv("COHORT_TEST_RUN", "mark")
    source = "import json, os\ndef f(**kwargs): raise ValueError(json.dumps(sorted(os.environ)))"
    seen = problem(make(source, environment=("MY_KEY", "NOT_SET")))
    assert all(f'"{name}"' in seen for name in ("PATH", "COHORT_TEST_RUN", "MY_KEY", "PYTHONPATH"))
    assert not any(name in seen for name in SECRETS[:-1])
    guards = (
        "import os\ndef f(**kwargs): raise ValueError('secret of' in open('/proc/%d/environ' % os.getppid()).read())"
    )
    assert "raised ValueError: False" in problem(make(guards))


@given(st.dictionaries(st.text("ABCHKLNPTY_", min_size=1, max_size=6), st.just("x")), st.lists(st.text("ABC")))
def test_only_what_is_named_passes(environment: dict[str, str], names: list[str]) -> None:
    passed = scrubbed(environment, names)
    assert set(names) & set(environment) <= set(passed)
    for name in set(passed) - set(names) - {"PYTHONPATH"}:
        assert name in ("PATH", "TZ", "LANG") or name.startswith(("LC_", "PYTHON", "COHORT_"))


def test_memory_has_a_limit(make: Make) -> None:
    source = """
def f(completions, **kwargs):
    if completions == ["small"]:
        return [1.0]
    kept = []
    while True:
        kept.append(bytearray(2**26) if completions == ["blocks"] else [float(len(kept))] * 1000)
"""
    function = make(f"import resource\nresource.setrlimit(resource.RLIMIT_DATA, (2**28, 2**28))\n{source}")
    assert "needed more than the 0.2 GiB of memory that it may have (line 9)" in problem(function, "blocks")
    assert "needed more than the 0.2 GiB of memory that it may have" in problem(function, "lists")
    assert call(function, "small") == (1.0,)


def test_half_of_the_machine_s_memory_is_the_limit(make: Make) -> None:
    source = "import resource\ndef f(**kwargs): raise ValueError(resource.getrlimit(resource.RLIMIT_DATA))"
    limit = int(guard.MEMORY_SHARE * machine_bytes())
    assert f"raised ValueError: ({limit}, {limit})" in problem(make(source))
    assert 2**28 < limit < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@linux
def test_the_number_of_processes_has_a_limit(make: Make, tmp_path: Path) -> None:
    source = f"""
import os, time
def f(**kwargs):
    pids = open({str(tmp_path / "pids")!r}, "w")
    for _ in range(400):
        if pid := os.fork():
            print(pid, file=pids, flush=True)
        else:
            os.setsid()
            time.sleep(1000)
    time.sleep(1000)
"""
    assert f"started more than {guard.PROCESSES} processes and was ended" in problem(make(source))
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) > guard.PROCESSES
    assert left(pids) == []


PRINTING = """
import subprocess, sys
def f(**kwargs):
    print("\\x1b[2Jhello\\u202e")
    print("careful", file=sys.stderr)
    subprocess.run(["echo", "from a program"])
    return [1.0]
"""


def test_what_it_prints_is_passed_on_printable_and_named(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(make(PRINTING), "a") == (1.0,)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "rules.py:f: �[2Jhello�\nrules.py:f: careful\nrules.py:f: from a program\n"


def test_much_output_is_left_out_and_does_not_block_it(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    function = make("def f(**kwargs):\n    for n in range(100_000): print(n, 'x' * 60)\n    return [1.0]")
    assert call(function, "a") == (1.0,)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("rules.py:f: 0 xxx")
    assert lines[-1] == "rules.py:f: printed 64 KiB; the rest is left out. Print less."
    assert SHOWN_BYTES <= sum(map(len, lines)) < 2 * SHOWN_BYTES
    assert call(function, "a") == (1.0,)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "ending", ["raise ValueError('no')", "os._exit(3)", "os.kill(os.getpid(), 9)", "time.sleep(60)", "return [[]]"]
)
def test_the_end_of_what_it_printed_is_told_with_the_failure(ending: str, make: Make) -> None:
    source = f"import os, time\ndef f(**kwargs):\n    print('x' * 999, 'last \\x1b words')\n    {ending}"
    message = problem(make(source, timeout=0.5))
    if ending != "return [[]]":
        assert message.endswith("xxx last � words") and "It printed: ..." in message
    assert len(message) < 1000


def test_what_is_printed_while_it_is_imported_is_told(make: Make) -> None:
    with pytest.raises(TaskError, match=r"raised SystemExit: 2 .* It printed: usage: mine"):
        make("import sys\nprint('usage: mine')\nsys.exit(2)").check([])


@given(st.lists(st.binary(max_size=30)))
@settings(max_examples=50)
def test_output_cut_anywhere_gives_the_same_lines(parts: list[bytes]) -> None:
    whole, cut = Output("f"), Output("f")
    whole.add(b"".join(parts))
    for part in parts:
        cut.add(part)
    assert whole.end() == cut.end()
    assert cut.end().isprintable()


UNUSABLE = {
    "class f:\n    def __init__(self, completions): pass": "is a class without `__call__`, not a function",
    "def f(completions, /): return [1.0]": "takes `completions` by place only",
    "def f(*a): return [1.0]": "takes no argument by name",
    "def f(): return [1.0]": "takes no argument by name",
    "async def f(completions):\n    yield 1.0": "is an asynchronous generator",
    "f = {}.update": "raised ValueError: no signature found",
}


@pytest.mark.parametrize("source", UNUSABLE)
def test_a_function_that_no_call_fits_is_refused_before_anything_starts(source: str, make: Make) -> None:
    with pytest.raises(TaskError, match=r"rules.py:f cannot be used: it") as refused:
        make(source).check(["answer"])
    assert UNUSABLE[source] in str(refused.value)


ODD = {
    "return {text: 1.0 for text in completions}": "returned dict ({'a': 1.0}), not a list of numbers",
    "return b'a'": "returned bytes (b'a'), not a list of numbers",
    "return {1.0}": "returned set ({1.0}), not a list of numbers",
    "return itertools.count()": "returned more than 1 values for 1 completions",
    "return (1.0 for _ in itertools.count())": "returned more than 1 values for 1 completions",
    "return [1.0] * 10**7": "returned more than 1 values for 1 completions",
    "raise Mute()": "raised Mute: an error that cannot be told (line 7)",
    "return [1e200]": "returned 1e+200, and rewards are from -1,000,000 to 1,000,000,",
    "return [-1e308]": "returned -1e+308, and rewards are from",
    "return [10**400]": "raised OverflowError",
    "return [[[1.0] * 1000]]": "returned [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, ...]], which is not a finite number",
    "return [Mute]": "returned <class ",
    "os.write(int(sys.argv[3]), b'x' * 99)": "sent something else than rewards",
    "os.write(int(sys.argv[3]), b'\\0' * 7 + b'\\2no'); time.sleep(60)": "sent something else than rewards",
    "os.close(int(sys.argv[3])); time.sleep(60)": "closed the connection to its owner",
    "os.kill(os.getppid(), 9); time.sleep(60)": "ended the process that guards it",
    "os.abort()": "ended its process (signal 6, Aborted)",
}
"""Body of a function -> what is said of it."""


@pytest.mark.parametrize("body", ODD)
def test_an_odd_result_is_told_in_a_sentence(body: str, make: Make) -> None:
    function = make(f"""
import itertools, os, sys, time
class Mute(Exception):
    def __str__(self): raise self
    __repr__ = __str__
def f(completions, **kwargs):
    {body}
""")
    start = time.monotonic()
    assert ODD[body] in problem(function, "a")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("value", [LARGEST_REWARD, -LARGEST_REWARD])
def test_large_rewards_are_rewards(value: float, make: Make) -> None:
    assert call(make(f"def f(**kwargs): return [{value!r}]"), "a") == (value,)


WAITS = {
    "it does not read": ("os.kill(os.getpid(), 19)", 10_000_000),
    "half a reply": ("os.write(int(sys.argv[3]), b'\\0' * 6 + b'\\1\\0half'); time.sleep(60)", 1),
    "half a length": ("os.write(int(sys.argv[3]), b'\\0'); time.sleep(60)", 1),
    "drop by drop": ("while not os.write(int(sys.argv[3]), b'\\0') or not time.sleep(0.4): pass", 1),
    "it closes everything": ("os.closerange(0, 100); time.sleep(60)", 1),
    "a thread goes on": ("threading.Thread(target=time.sleep, args=(60,)).start(); time.sleep(60)", 1),
    "it prints without end": ("while True: print('x' * 1000)", 1),
}


@pytest.mark.parametrize("case", WAITS)
def test_every_wait_has_a_limit(case: str, make: Make, tmp_path: Path) -> None:
    body, size = WAITS[case]
    where = str(tmp_path / "pids")
    function = make(f"""
import os, sys, threading, time
open({where!r}, "w").write(f"{{os.getpid()}} {{os.getppid()}}")
def f(completions, **kwargs):
    if completions[0] == "first": return [1.0]
    {body if size == 1 else "pass"}
{f"threading.Timer(0.2, lambda: {body}).start()" if size > 1 else ""}
""", timeout=0.4)  # fmt: skip
    assert call(function, "first") == (1.0,)
    if size > 1:
        time.sleep(0.5)
    start = time.monotonic()
    message = problem(function, "x" * size)
    assert time.monotonic() - start < 2.5
    assert "did not return within 0.4 s" in message or "closed the connection to its owner" in message
    assert left([int(pid) for pid in Path(where).read_text().split()], 1.0) == []


CHILDREN = """
import os, subprocess
subprocess.Popen(["sleep", "1000"])
def f(completions, **kwargs):
    children = [
        subprocess.Popen(["sleep", "1000"]),
        subprocess.Popen(["sleep", "1000"], start_new_session=True),
        subprocess.Popen(["sh", "-c", "setsid sleep 1000 & sleep 1000"], start_new_session=True),
    ]
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.execvp("sleep", ["sleep", "1000"])  # a daemon: its parent has ended
        os._exit(0)
    os.wait()
    if completions == ["hang"]: os.system("sleep 1000")
    if completions == ["exit"]: os._exit(1)
    return [os.getpid()]
"""


def sleepers(mark: str) -> list[int]:
    """Processes with the mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return running(*found)


@linux
@pytest.mark.parametrize("ending", ["close", "time-out", "exit", "owner killed", "owner terminated", "owner ends"])
def test_all_that_it_started_ends_with_it(
    ending: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"COHORT_WALLS_TEST={tmp_path}"
    monkeypatch.setenv(*mark.split("="))
    function = make(CHILDREN, timeout=1.0)
    if ending == "close":
        call(function, "a")
        deadline = time.monotonic() + 10
        while len(sleepers(mark)) < 7:  # guard, function, and what it started, which itself starts others
            assert time.monotonic() < deadline
        function.close()
    elif ending in ("time-out", "exit"):
        problem(function, "hang" if ending == "time-out" else "exit")
    else:
        last = {
            "owner killed": "os.kill(os.getpid(), signal.SIGKILL)",
            "owner terminated": "os.kill(os.getpid(), signal.SIGTERM)",
            "owner ends": "pass",
        }
        code = f"""
import os, signal
from rewards.function import RewardFunction
from rewards.prompts import EXAMPLE_PROMPT
RewardFunction({function.spec!r}, 30.0)(EXAMPLE_PROMPT, ["a"], [[1]])
{last[ending]}
"""
        subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    deadline = time.monotonic() + 5
    while sleepers(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in sleepers(mark) if pid != os.getpid()] == []


@linux
def test_a_function_that_kills_its_guard_ends_with_it(make: Make, tmp_path: Path) -> None:
    where = tmp_path / "pid"
    source = f"""
import os, time
def f(**kwargs):
    open({str(where)!r}, "w").write(str(os.getpid()))
    os.kill(os.getppid(), 9)
    time.sleep(60)
"""
    function = make(source)
    assert "ended the process that guards it" in problem(function)
    assert left([int(where.read_text())]) == []
    assert "ended the process that guards it" in problem(function)  # of a new process


@linux
def test_signals_for_the_whole_job_end_neither_guard_nor_function(make: Make) -> None:
    function = make("""
import os, signal, subprocess
def f(completions, **kwargs):
    child = subprocess.Popen(["sleep", "1000"])
    forked = os.fork() or signal.pause()
    mask = open(f"/proc/{child.pid}/status").read().split("SigBlk:")[1].split()[0]
    child.terminate(), os.kill(forked, signal.SIGTERM)
    return [child.wait(), os.waitpid(forked, 0)[1], int(mask, 16)]
""")
    walled, _ = function._start()
    guard_pid = walled._process.pid
    worker = guard._descendants(guard_pid)
    for number in guard.JOB_SIGNALS:
        for pid in (guard_pid, *worker):
            os.kill(pid, number)
    time.sleep(0.2)
    assert running(guard_pid, *worker) == [guard_pid, *worker]
    # What it starts has the usual handling, and no signal blocked.
    assert call(function, "a", "b", "c") == (-signal.SIGTERM, signal.SIGTERM, 0.0)


def test_signals_while_it_starts_do_not_end_it(make: Make, tmp_path: Path) -> None:
    """Sent as soon as there is a process, long before Python has set up anything there."""
    function = make("def f(**kwargs): return [1.0]")
    code = f"""
import os, signal, subprocess, threading
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda *_: None)
start = subprocess.Popen.__init__
def started(self, *args, **more):
    start(self, *args, **more)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
        os.killpg(self.pid, number)
subprocess.Popen.__init__ = started
from rewards.function import RewardFunction
from rewards.prompts import EXAMPLE_PROMPT
print(RewardFunction({function.spec!r}, 30.0)(EXAMPLE_PROMPT, ["a"], [[1]]).values)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "(1.0,)\n", done.stderr


VALUES = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(), st.binary()),
        st.sampled_from(
            ["object()", "Exception", "...", "print", "iter([1.0])", "range(3)", "itertools.count()"]
        ).map(lambda source: Raw(source)),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.tuples(inner), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)


class Raw(str):
    """Text of Python that stands for itself."""

    def __repr__(self) -> str:
        return str(self)


@pytest.fixture(scope="module")
def anything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardFunction]:
    """A function that returns what its column says."""
    path = tmp_path_factory.mktemp("fuzz") / "odd.py"
    path.write_text(
        "import itertools\nnan, inf = float('nan'), float('inf')\nnanj, infj = complex(0, nan), complex(0, inf)\n"
        "def f(result, completions): return eval(result[0])"
    )
    function = RewardFunction(f"{path}:f", 20.0)
    yield function
    function.close()


@settings(max_examples=300)
@given(result=VALUES, number=st.integers(1, 3))
def test_whatever_it_returns_is_rewards_or_a_reward_error(
    result: object, number: int, anything: RewardFunction
) -> None:
    prompt = Prompt("p", EXAMPLE_PROMPT.messages, {"result": repr(result)}, (1,), text="?")
    try:
        rewards = anything(prompt, ["a"] * number, [[1]] * number).values
    except RewardError as error:
        message = str(error)
    else:
        assert len(rewards) == number and all(
            each is None or (type(each) is float and abs(each) <= LARGEST_REWARD) for each in rewards
        )
        return
    assert "odd.py:f" in message and len(message) < 1000


PARAMETERS = st.lists(
    st.sampled_from(["completions", "prompts", "answer", "other", "other=1", "*", "/", "*rest", "**more"]),
    unique=True, max_size=4,
)  # fmt: skip


@settings(max_examples=15)
@given(
    parameters=PARAMETERS,
    beginning=st.sampled_from(["def", "async def"]),
    body=st.sampled_from(["return [1.0]", "yield 1.0", "pass"]),
)
def test_whatever_it_takes_is_refused_or_called(
    parameters: list[str], beginning: str, body: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("odd") / "odd.py"
    path.write_text(f"{beginning} f({', '.join(parameters)}): {body}")
    function = RewardFunction(f"{path}:f", 20.0)
    try:
        function.check(["answer"])
        assert call(function, "a") == (1.0,)
    except (TaskError, RewardError) as error:
        assert "odd.py:f" in str(error)  # noqa: PT017  # or none
    finally:
        function.close()
