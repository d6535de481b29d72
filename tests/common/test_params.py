"""params.yaml: read as DVC reads it, and every mistake in it reported at once."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dvc.api
import pytest
from pydantic import ValidationError

from lenet_cifar10.common.params import Params, check_params, flatten, load_params
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.common.yaml import parse_yaml

SPELLINGS = """
decimal: [0, 7, 007, 010, -12, +12, 1_000, 0b101, 0o10, 0o17, 0x1F, 08, 0_8, 12345678901234567890]
float: [1.0, 1., .5, -.5, 1e3, 1e-3, 1E+3, 1e-06, 1.5e3, 6.02e+23, .inf, -.INF, 1_000.5, .5e+3, 1.e3, +1.5]
not_numbers: [1:30, 1:30:15, 0o8, 0b2, 0xg, 1e, e3, 1-2, 1.2.3, _1, "1", '0.5', ++1, 1e-3-4, "0x", .e3, 1__e3x]
booleans: [true, True, TRUE, false, False, FALSE]
not_booleans: [yes, no, on, off, y, n, Yes, NO, tRUE, "true"]
nulls: [~, null, Null, NULL]
empty:
not_nulls: ["~", 'null', nULL, none, None]
text: [cuda:1, a b, 'it''s', "tab\\t", <, "<<"]
urls:
  - http://x.org/a?b=1&c=2
  - file:///c/d e.tgz
base: &base {a: 1, b: {c: 2}}
merged:
  <<: *base
  a: 3
alias: *base
block: |
  one
    two
folded: >-
  one
  two
nested: {a: [1, {b: [2, 3]}], "quoted key": 1, 0.5: half}
"""


@pytest.fixture
def values(params: Params) -> dict[str, Any]:
    """Correct values, to be spoilt."""
    return params.model_dump()


def mistakes_in(values: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        check_params(values)
    return str(caught.value).splitlines()


def test_every_spelling_is_read_as_dvc_reads_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "params.yaml").write_text(SPELLINGS)
    values, expected = parse_yaml(SPELLINGS, "params.yaml"), dvc.api.params_show(repo=str(tmp_path))
    assert values.keys() == expected.keys()
    for name, value in values.items():
        assert repr(value) == repr(expected[name]), name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train: [", "line 1"),
        ("a: b: c", "line 1"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "the key c is repeated.* line 4"),
        ("%YAML 1.1\n---\na: no\n", "directives such as %YAML"),
        ("a: 1\n---\nb: 1\n", "another document"),
        ("a: !!python/object/apply:os.system [echo]", "could not determine a constructor"),
        ("a: !!int ''", "invalid literal"),
        ("? {a: 1} : 2", "unhashable"),
        ("[" * 10_000, "recursion"),
        (bytes(range(256)), "can't decode"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_in_one_line(tmp_path: Path, text: str | bytes, reason: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=f"params.yaml: is not valid YAML: .*{reason}") as caught:
        load_params(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: no such file; run this in the project's folder"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "found"), [("", "nothing"), ("# a comment", "nothing"), ("- seed: 0", r"\[.*\]"), ("seed", "'seed'")]
)
def test_a_file_without_keys_is_refused(text: str, found: str) -> None:
    with pytest.raises(UserError, match=f"^params.yaml: its content: found {found}, expected a section with keys$"):
        check_params(parse_yaml(text, "params.yaml"))


def test_the_committed_file_is_correct_and_its_sections_are_frozen(params: Params) -> None:
    assert flatten(params)["train.ema_decay"] == params.train.ema_decay
    assert check_params(params.model_dump()) == params
    with pytest.raises(ValidationError, match="frozen"):
        params.train.epochs = 1


@pytest.mark.parametrize(
    ("key", "value", "mistake"),
    [
        ("seed", -1, "found -1; input should be greater than or equal to 0"),
        ("seed", 2**32, "found 4294967296; input should be less than 4294967296"),
        ("seed", True, "found true; input should be a valid integer"),
        ("seed", None, "found nothing; input should be a valid integer"),
        ("device", "gpu", "found 'gpu'; "),
        ("device", "cpu\n", r"found 'cpu\n'; "),
        ("data.urls", [], "found []; "),
        ("data.sha256", 0, "found 0; input should be a valid string"),
        ("data.sha256", "x" * 1000, "found 'xxx"),
        ("augment.scale", 0.7, "found 0.7; input should be less than or equal to 0.6"),
        ("augment.padding_mode", "wrap", "found 'wrap'; input should be 'zeros' or 'symmetric'"),
        ("model.dropout", 1, "found 1; input should be less than 1"),
        ("train.learning_rate", float("nan"), "found nan; "),
        ("train.weight_decay", float("inf"), "found inf; "),
        ("train.epochs", 1.0, "found 1.0; input should be a valid integer"),
        ("train.epochs", "10", "found '10'; input should be a valid integer"),
        ("evaluate.test_time_flips", "yes", "found 'yes'; input should be a valid boolean"),
        ("train.learningrate", 1, "unknown key; did you mean learning_rate?"),
        ("model.width", 1, "unknown key; known keys here: dropout"),
        ("trian", {}, "unknown key; did you mean train?"),
        ("model", None, "found nothing, expected a section with keys"),
        ("model", [1], "found [1], expected a section with keys"),
    ],
)
def test_a_mistake_is_one_line_with_key_value_and_what_is_expected(
    values: dict[str, Any], key: str, value: object, mistake: str
) -> None:
    *parents, name = key.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    section[name] = value
    (line,) = mistakes_in(values)
    assert line.startswith(f"params.yaml: {key}: {mistake}")
    assert len(line) < 200


def test_all_mistakes_are_reported_together(values: dict[str, Any]) -> None:
    del values["train"]["epochs"], values["figures"]
    values["augment"]["scale"] = 2
    values["seed"] = "0"
    values["model"]["droput"] = 0.1
    keys = [line.split(": ")[1] for line in mistakes_in(values)]
    assert sorted(keys) == ["augment.scale", "figures", "model.droput", "seed", "train.epochs"]
    values.clear()
    assert [line.split(": ")[2] for line in mistakes_in(values)] == ["is missing"] * 8


def test_momentum_is_for_sgd_alone(values: dict[str, Any]) -> None:
    values["train"] |= {"momentum": 0.9, "optimizer": "sgd"}
    assert check_params(values).train.momentum == 0.9
    values["train"]["optimizer"] = "adamw"
    advice = "which has no effect with train.optimizer adamw; set it to 0, or use sgd"
    assert mistakes_in(values) == [f"params.yaml: train.momentum: found 0.9, {advice}"]
