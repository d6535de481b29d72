"""params.yaml and every way in which it can be wrong."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from lenet_cifar10.errors import UserError
from lenet_cifar10.params import Params

COMMITTED = Path(__file__).parent.parent / "params.yaml"
TEXT = COMMITTED.read_text(encoding="utf-8")
REPEATABLE = settings(deadline=None, derandomize=True, database=None, max_examples=60)


def values_with(**changes: object) -> dict[str, Any]:
    """The committed values, changed at dotted keys written as section__key."""
    values = YAML(typ="safe").load(TEXT)
    for name, value in changes.items():
        *sections, key = name.split("__")
        target = values
        for section in sections:
            target = target[section]
        target[key] = value
    return values


def mistakes_in(values: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        Params.check(values)
    return str(caught.value).splitlines()


def mistakes_of(load: Callable[[], object]) -> list[str]:
    """The lines of the user error in which a call ends, if it does; any other error is a failure."""
    try:
        load()
    except UserError as error:
        return str(error).splitlines()
    return []


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_committed_file_loads() -> None:
    params = Params.load(COMMITTED)
    assert (params.seed, params.device, params.train.learning_rate) == (0, "auto", 0.08)


def test_dvc_reads_the_same_values() -> None:
    assert YAML(typ="safe").load(TEXT) == Params.load(COMMITTED).model_dump()


@pytest.mark.parametrize(
    ("written", "number"), [("1e-3", 0.001), ("1e-06", 0.000001), ("1E-2", 0.01), (".5", 0.5), ("5", 5.0), ("+2.", 2.0)]
)
def test_every_way_to_write_a_number_is_read_as_one(tmp_path: Path, written: str, number: float) -> None:
    path = write(tmp_path, TEXT.replace("learning_rate: 0.08", f"learning_rate: {written}"))
    assert Params.load(path).train.learning_rate == number


@pytest.mark.parametrize("text", ["\ufeff" + TEXT, TEXT.replace("\n", "\r\n")], ids=["byte order mark", "CRLF"])
def test_files_of_other_editors_are_read(tmp_path: Path, text: str) -> None:
    assert Params.load(write(tmp_path, text)) == Params.load(COMMITTED)


def test_every_mistake_is_told_at_once_one_line_each() -> None:
    values = values_with(seed=True, train__epochs="ten", train__learning_rate=0, augment__scale=0.7, model__droput=0.1)
    del values["figures"]
    assert sorted(mistakes_in(values)) == [
        "params.yaml: augment.scale: found 0.7, expected a number from 0 to 0.6",
        "params.yaml: figures: is missing; expected a section with the keys dpi, colormap",
        "params.yaml: model.droput: unknown key; did you mean dropout?",
        "params.yaml: seed: found true, expected a whole number from 0 to 4294967295",
        'params.yaml: train.epochs: found "ten", expected a whole number from 1 to 10000',
        "params.yaml: train.learning_rate: found 0, expected a number above 0, up to 100",
    ]


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("seed", -1, "seed: found -1, expected a whole number from 0 to 4294967295"),
        ("seed", 2**32, "seed: found 4294967296, expected a whole number from 0 to 4294967295"),
        ("seed", 1.0, "seed: found 1.0, expected a whole number from 0 to 4294967295"),
        ("seed", None, "seed: found nothing, expected a whole number from 0 to 4294967295"),
        ("device", "gpu", 'device: found "gpu", expected one of auto, cpu, cuda, cuda:N, mps'),
        ("device", "cuda:256", 'device: found "cuda:256", expected one of'),
        ("device", "cuda:01", 'device: found "cuda:01", expected one of'),
        ("device", "cuda:\u0663", 'device: found "cuda:\u0663", expected one of'),
        ("data__urls", [], "data.urls: found [], expected a list of one or more URLs or paths"),
        ("data__urls", [5], "data.urls.0: found 5, expected a list of one or more URLs or paths"),
        ("data__urls", [""], 'data.urls.0: found "", expected a list of one or more URLs or paths'),
        ("data__sha256", "abc", 'data.sha256: found "abc", expected 64 lower-case hexadecimal digits, in quotes'),
        ("data__sha256", 0, "data.sha256: found 0, expected 64 lower-case hexadecimal digits, in quotes"),
        ("augment__border", "wrap", 'augment.border: found "wrap", expected one of zero, reflect'),
        ("model", None, "model: found nothing, expected a section with the keys dropout, first_layer"),
        ("model__dropout", 1, "model.dropout: found 1, expected a number from 0, below 1"),
        ("train__learning_rate", True, "train.learning_rate: found true, expected a number above 0, up to 100"),
        ("train__learning_rate", math.nan, "train.learning_rate: found nan, expected a number above 0, up to 100"),
        ("train__weight_decay", math.inf, "train.weight_decay: found inf, expected a number from 0 to 10"),
        ("train__optimizer", "lion", 'train.optimizer: found "lion", expected one of sgd, adam, adamw'),
        ("train__launcher", " ", 'train.launcher: found " ", expected the command before the script'),
        ("evaluate__test_time_flips", "yes", 'evaluate.test_time_flips: found "yes", expected true or false'),
        ("figures__dpi", [1], "figures.dpi: found [1], expected a whole number from 50 to 300"),
    ],
)
def test_a_wrong_value_is_told_with_key_value_and_what_is_allowed(key: str, value: object, line: str) -> None:
    (found,) = mistakes_in(values_with(**{key: value}))
    assert found.startswith(f"params.yaml: {line}")


def test_line_ends_in_keys_and_values_do_not_make_more_lines() -> None:
    assert mistakes_in(values_with(device="a\nb", **{"x\ny": 1})) == [
        'params.yaml: device: found "a\\nb", expected one of auto, cpu, cuda, cuda:N, mps',
        "params.yaml: x\\ny: unknown key; "
        "known keys here: seed, device, data, augment, model, train, evaluate, figures",
    ]


def test_a_number_too_long_to_be_written_out_is_told_in_words() -> None:
    (line,) = mistakes_in(values_with(seed=16**5000))
    assert line.startswith("params.yaml: seed: found a number of more than 60 digits, expected a whole number")


def test_a_long_value_is_cut_to_a_line() -> None:
    (line,) = mistakes_in(values_with(device="x" * 1000))
    assert len(line) < 140
    assert 'device: found "xxx' in line


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("train__learningrate", "train.learningrate: unknown key; did you mean learning_rate?"),
        ("train__Epochs", "train.Epochs: unknown key; did you mean epochs?"),
        ("model__width", "model.width: unknown key; known keys here: dropout, first_layer"),
        ("trian", "trian: unknown key; did you mean train?"),
    ],
)
def test_an_unknown_key_is_told_with_a_near_name_or_all_names(key: str, advice: str) -> None:
    assert mistakes_in(values_with(**{key: 1})) == [f"params.yaml: {advice}"]


def test_a_number_as_a_key_is_an_unknown_key() -> None:
    values = values_with()
    values["model"][1] = 2
    assert mistakes_in(values) == ["params.yaml: model.1: unknown key; known keys here: dropout, first_layer"]


def test_momentum_with_an_optimizer_that_has_none_is_refused() -> None:
    assert mistakes_in(values_with(train__momentum=0.9, train__optimizer="adamw")) == [
        "params.yaml: train.momentum: 0.9 has no effect with train.optimizer adamw: set it to 0, or use sgd"
    ]


def test_momentum_with_sgd_is_accepted() -> None:
    assert Params.check(values_with(train__momentum=0.9, train__optimizer="sgd")).train.momentum == 0.9


def test_a_wrong_optimizer_does_not_hide_a_wrong_momentum() -> None:
    assert len(mistakes_in(values_with(train__momentum=1, train__optimizer="lion"))) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing, expected the sections seed, device, data"),
        ("# only a comment\n", "found nothing, expected the sections"),
        ("- seed: 0\n", "found \\[\\{'seed': 0\\}\\], expected the sections"),
        ("seed", 'found "seed", expected the sections'),
        ("train: [", "is not valid YAML: .*line 1"),
        ("a: b: c", "is not valid YAML"),
        (TEXT + "seed: 1\n", 'is not valid YAML: .*duplicate key "seed"'),
        (TEXT + "---\nseed: 1\n", "is not valid YAML: .*another document"),
        ("!!python/object/apply:os.system [echo]", "is not valid YAML: could not determine a constructor"),
        ("a: 2001-99-99", "is not valid YAML: month must be in 1..12"),
        ("a: !!int ''", "is not valid YAML"),
        ("a: !!bool x", "is not valid YAML"),
        ("? - : ", "is not valid YAML: unhashable type: 'dict'"),
        ("[" * 1000, "is not valid YAML: maximum recursion depth"),
        (bytes(range(256)), "is not valid YAML: 'utf-8' codec can't decode"),
        (b"\0", "is not valid YAML: unacceptable character"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_with_the_reason(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=rf"params\.yaml: {message}") as caught:
        Params.load(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml: no such file; run this in the project's folder"):
        Params.load(tmp_path / "nothing.yaml")


def test_sections_are_frozen() -> None:
    params = Params.load(COMMITTED)
    with pytest.raises(ValidationError, match="frozen"):
        params.train.epochs = 1
    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 1


def test_every_key_has_a_comment_directly_above_it_or_above_its_group() -> None:
    """A group is a run of keys whose one comment names each of them."""
    comment = ""
    for above, line in zip(["", *TEXT.splitlines()], TEXT.splitlines(), strict=False):
        if line.lstrip().startswith("#"):
            comment = (comment if above.lstrip().startswith("#") else "") + line
        elif ":" in line and not line.lstrip().startswith("-"):
            key, _, value = line.strip().partition(":")
            is_section = not value and not line.startswith(" ")
            explained = above.lstrip().startswith("#") or key in comment.lower()
            assert explained or is_section, f"no comment above {key}"


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(), st.binary(max_size=9)
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(leaves.filter(lambda key: key == key), inner, max_size=3)
    ),
    max_leaves=6,
)


def keys_of(values: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in keys_of(value))


@REPEATABLE
@given(st.text())
def test_any_text_ends_in_parameters_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(UserError, match=r"any\.yaml: "):  # no text this short is a whole file
        Params.load(path)


@REPEATABLE
@given(st.data())
def test_a_damaged_file_ends_in_parameters_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(TEXT)))
    junk = data.draw(st.text(alphabet="[]{}:,-#&*!|>'\"%@` \n\t0aé!<?~\0", max_size=6))
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_text(TEXT[:start] + junk + TEXT[start + data.draw(st.integers(0, 5)) :], encoding="utf-8")
    assert all(line.startswith(f"{path}: ") for line in mistakes_of(lambda: Params.load(path)))


@REPEATABLE
@given(st.data())
def test_any_value_anywhere_ends_in_parameters_or_a_line_that_names_its_key(data: st.DataObject) -> None:
    values = values_with()
    location = data.draw(st.sampled_from(list(keys_of(values))))
    target = values
    for part in location[:-1]:
        target = target[part]
    target[location[-1]] = data.draw(trees)
    mistakes = mistakes_of(lambda: Params.check(values))
    assert all(line.startswith(f"params.yaml: {'.'.join(location)}") for line in mistakes)
    assert "something else" not in "".join(mistakes)
