"""What a user may get wrong, through the command itself: status 2, one message, nothing started."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.loading import parse
from launch import hardware, run
from launch.__main__ import BAD_INPUT, main

CHAT = [{"role": "narrator", "content": "Once."}, {"role": "user", "content": "3 + 4?"}]

FILES: dict[str, str | bytes] = {
    "date.yaml": "run: {max_steps: 2024-13-45}",
    "key.yaml": "run: {1: 2}",
    "empty_key.yaml": "'': 1",
    "control.yaml": "# \x01\nrun: {max_steps: 1}",
    "recursive.yaml": "run: &r {name: *r}",
    "laughs.yaml": "a: &a [x, x]\nb: &b [*a, *a]\nrun: [*b, *b]",
    "digits.yaml": f"run: {{max_steps: {'9' * 5000}}}",
    "brackets.yaml": "[" * 20_000,
    "nul.yaml": 'run: {directory: "a\\0b"}',
    "minutes.yaml": "run: {max_steps: 1:30}",
    "true.yaml": "run: {max_steps: true}",
    "stop.yaml": "sampling: {stop: ['']}",
    "latin.yaml": b"run: {name: \xe9}",
    "surrogate.jsonl": '{"prompt": "\\ud800"}\n',
    "deep.jsonl": '{"prompt": "a", "x": ' + "[" * 200_000 + "]" * 200_000 + "}\n",
    "deep.json": '[{"prompt": "a", "x": ' + "[" * 200_000 + "]" * 200_000 + "}]\n",
    "roles.jsonl": json.dumps({"prompt": CHAT}) + "\n",
    "good.jsonl": '{"prompt": "a", "answer": "b"}\n{"prompt": "c"}\n',
    "reward.py": "def f(completions, **columns): return [0.0] * len(completions)\n",
    "text.gguf": "This is no model.\n",
    "not_a_model.txt": "This is no model.\n",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, model: str) -> Path:
    """A folder with bad files, and models that are damaged each in one way."""
    folder = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def damaged(name: str, damage: Callable[[Path], object]) -> None:
        copy = folder / name
        shutil.copytree(model, copy)
        damage(copy)

    damaged("empty_config", lambda copy: (copy / "config.json").write_text("{}"))
    damaged("a_word", lambda copy: _reworded(copy / "config.json"))
    damaged("no_weights", lambda copy: (copy / "model.safetensors").unlink())
    damaged("cut_off", lambda copy: _cut(copy / "model.safetensors"))
    damaged("no_tokenizer", lambda copy: (copy / "tokenizer.json").write_text("{"))
    damaged("strict", lambda copy: (copy / "chat_template.jinja").write_text(STRICT))
    (folder / "pictures").mkdir()
    return folder


STRICT = (
    "{% for message in messages %}{% if message['role'] not in ['user', 'system', 'assistant'] %}"
    "{{ raise_exception('Only user, system and assistant roles are supported!') }}{% endif %}{% endfor %}"
)


def _reworded(file: Path) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": "wide"}))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def own(data: str) -> str:
    """Arguments of a task of one's own."""
    return f"--task.name=null --task.few_shot=0 --task.reward=reward.py:f --sampling.prompts_per_step=1 {data}"


CASES: dict[str, tuple[str, str]] = {
    "a date": ("date.yaml", "run.max_steps: 2024-13-45 is not allowed"),
    "a key that is a number": ("key.yaml", "key.yaml, line 1: 1 is no name of a setting"),
    "an empty key": ("empty_key.yaml", "there is no such setting"),
    "a control character": ("control.yaml", "control.yaml, line 1: this is not YAML"),
    "a section in itself": ("recursive.yaml", "anchors and aliases have no use"),
    "a billion laughs": ("laughs.yaml", "anchors and aliases have no use"),
    "thousands of digits": ("digits.yaml", "a number of 5000 digits"),
    "thousands of brackets": ("brackets.yaml", "lists or sections 20 deep"),
    "a NUL": ("nul.yaml", r"run.directory: a\u0000b is not allowed"),
    "minutes": ("minutes.yaml", "run.max_steps: 1:30 is not allowed"),
    "true": ("true.yaml", "run.max_steps: true is not allowed"),
    "an empty stop text": ("stop.yaml", "an empty one would end every completion"),
    "not UTF-8": ("latin.yaml", "cannot be read"),
    "no file's name": ("x" * 300, "cannot be read"),
    "an empty stop text on the command line": ("good.yaml --sampling.stop=", "an empty one would end"),
    "too many generations": ("good.yaml --sampling.num_generations=99999999999999999999", "at most 65536"),
    "a long reward timeout": ("good.yaml --task.reward_timeout=3000000", "at most 604800"),
    "a long sample timeout": ("good.yaml --cluster.sample_timeout=1e300", "at most 604800"),
    "a directory of 300 letters": (f"good.yaml --run.directory={'x' * 300}", "255 between two slashes"),
    "too many prompts": ("good.yaml --task.range=0,99999 --task.size=100000000", "at most 100000"),
    "long sentences": ("good.yaml --task.name=counting --task.range=1,5000", "it must end at 200 or below"),
    "a million threads": ("good.yaml --engine.threads=1000000", "at most 10000"),
    "threads beyond the cores": ("good.yaml --engine.threads=5000", "cores; it must be at most"),
    "a rank's threads": ("good.yaml --training.threads=5000", "training.threads: 5000 is too many"),
    "a thousand engines": ("good.yaml --engine.engines=1000", "engine.engines: 1000 and training.ranks: 1 are 1001"),
    "too many ranks": ("good.yaml --training.ranks=1000", "are 1001 processes, and this machine has"),
    "a large cache": ("good.yaml --engine.kv_cache_gib=10000", "holds 10000 GiB of keys and values"),
    "an adapter of no layer": (
        "good.yaml --training.lora_rank=8 --training.lora_target_modules=q_prj",
        "q_prj is no linear layer of",
    ),
    "an adapter of embeddings": (
        "good.yaml --training.lora_rank=8 --training.lora_target_modules=[q_proj,embed_tokens]",
        "which has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj; embeddings and head get no adapter",
    ),
    "a revision of a folder": ("good.yaml --model.revision=main", "only allowed with a hub id"),
    "a revision that is not there": ("good.yaml --model.path=a/b --model.revision=v2", "model.revision = 'v2'"),
    "an empty config.json": ("good.yaml --model.path=empty_config", "config.json cannot be used"),
    "a word for a number in config.json": ("good.yaml --model.path=a_word", "error for field 'hidden_size'"),
    "a model without weights": ("good.yaml --model.path=no_weights", "has no weights"),
    "a model cut off": ("good.yaml --model.path=cut_off", "is damaged: it is cut off"),
    "a broken tokenizer": ("good.yaml --model.path=no_tokenizer", "tokenizer cannot be loaded"),
    "text called .gguf": ("good.yaml --model.path=text.gguf", "cannot be read as a .gguf file"),
    "a file for a model": ("good.yaml --model.path=not_a_model.txt", "is a file, but no .gguf file"),
    "a model of 200 letters": (f"good.yaml --model.path={'x' * 200}", "the hub does not give it"),
    "a model of an unknown user": ("good.yaml --model.path=~nobody-here/model", "home directory"),
    "a lone surrogate": (own("--task.dataset=surrogate.jsonl"), "half a surrogate pair"),
    "deep lines": (own("--task.dataset=deep.jsonl"), "line 1 nests lists or objects too deep"),
    "a deep file": (own("--task.dataset=deep.json"), "deep.json cannot be read"),
    "a data file of 200 letters": (own(f"--task.dataset={'x' * 200}.jsonl"), "there is no such file or folder"),
    "a split of a single file": (own("--task.dataset=good.jsonl --task.split=validation"), "is a single file"),
    "a role that the template refuses": (
        own("--task.dataset=roles.jsonl --model.path=strict"),
        "turns narrator, user",
    ),
    "an empty folder": (own("--task.dataset=pictures"), "pictures cannot be read"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_with_status_2_before_anything_starts(
    case: str, place: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = CASES[case]
    assert refused(words, place, model, monkeypatch, capsys).count(message) == 1


def refused(
    words: str, place: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What `cohort train` says on standard error."""

    def start(*_: object) -> None:
        raise AssertionError("engines and ranks were started")

    monkeypatch.setattr(run, "connected", start)
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(place)
    (place / "good.yaml").write_text(f"task: {{name: comparison}}\nmodel: {{path: {model}}}\nrun: {{max_steps: 1}}")
    arguments = words.split(" ")
    assert main(["train", *(["good.yaml"] if words.startswith("--") else []), *arguments]) == BAD_INPUT
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert not (place / "runs").exists()
    return error


@pytest.mark.parametrize("cache", ["/proc", "/dev/null"])
def test_a_cache_that_takes_nothing_is_named(
    cache: str, place: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    error = refused("good.yaml --model.path=text.gguf", place, model, monkeypatch, capsys)
    assert f"cannot be unpacked to {cache}" in error and "Set XDG_CACHE_HOME" in error


def test_a_model_that_cannot_be_trained_is_refused_before_anything_starts(
    place: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(model, place / "other"))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "stablelm"}))
    error = refused(f"good.yaml --model.path={folder}", place, model, monkeypatch, capsys)
    assert "cannot be trained: StableLmForCausalLM cannot be trained on token trees" in error


IMPORTED = """
import sys
from launch.__main__ import main

status = main(sys.argv[1:])
print(status, *{"ray", "torch"} & set(sys.modules))
"""


def imported(folder: Path, *arguments: str) -> tuple[str, list[str]]:
    """What a command says before it ends with `BAD_INPUT`, and which of the slow libraries it imported for that."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )
    status, *slow = done.stdout.splitlines()[-1].split()
    assert int(status) == BAD_INPUT, done.stderr
    return done.stderr, slow


def written(folder: Path, model: Path | str) -> str:
    (folder / "config.yaml").write_text(
        f"task: {{name: comparison, size: 8}}\nmodel: {{path: {model}}}\nrun: {{max_steps: 1}}"
    )
    return str(folder / "config.yaml")


@pytest.mark.parametrize("family", ["as it is", "qwen3"])
def test_neither_torch_nor_ray_is_imported_for_a_refusal(family: str, model: str, tmp_path: Path) -> None:
    """They take seconds."""
    copied = Path(shutil.copytree(model, tmp_path / "model"))
    if family != "as it is":
        for name, changed in (
            ("config.json", {"model_type": family}),
            ("tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"}),
        ):
            values = json.loads((copied / name).read_text())
            (copied / name).write_text(json.dumps({**values, **changed}))
    said, slow = imported(tmp_path, "train", written(tmp_path, copied), "--sampling.prompts_per_step=9")
    assert "sampling.prompts_per_step: 9 is larger than the data set" in said
    assert slow == []


def test_nor_for_a_run_that_cannot_go_on(model: str, tmp_path: Path) -> None:
    config = parse(written(tmp_path, model), [])
    said, slow = imported(tmp_path, "train", "--resume", str(tmp_path))
    assert "there is no whole checkpoint" in said and slow == []
    latest = tmp_path / "checkpoints" / "step-000001"
    latest.mkdir(parents=True)
    (latest / "record.json").write_text(json.dumps({"config": config.model_dump_json()}))
    said, slow = imported(tmp_path, "train", "--resume", str(tmp_path), "--seed=1")
    assert "seed: 1 is not what the run began with, 0" in said and slow == []
