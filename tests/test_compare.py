"""`lenet-cifar10 compare`, as people call it, on runs of the real pipeline."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any, NoReturn

import pytest
from project import Project
from scipy import stats
from typer.testing import CliRunner

from lenet_cifar10.commands import app

PREDICTIONS = "plots/predictions.csv"


@pytest.fixture(scope="module")
def two_runs(pipeline_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a second run, the experiment short; for tests that change nothing."""
    folder = tmp_path_factory.mktemp("two_runs") / "project"
    shutil.copytree(pipeline_template, folder, symlinks=True)
    project = Project(folder)
    project.dvc("exp", "run", "--temp", "--name", "short", "-S", "train.epochs=1", "-S", "train.learning_rate=0.5")
    return project


def compare(project: Project, *words: str) -> str:
    """What compare prints, called in this process, where SciPy and DVC have been imported already."""
    with chdir(project.folder):
        result = CliRunner().invoke(app, ["compare", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def compare_as_json(project: Project, *words: str) -> dict[str, Any]:
    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(compare(project, *words, "--json"), parse_constant=refuse)


def complaint(project: Project, *words: str) -> str:
    """The one line with which compare fails; nothing else is printed."""
    result = project.run("lenet-cifar10", "compare", *words, check=False)
    assert result.status == 1, result.text
    assert result.text.count("\n") == 1
    return result.text.removeprefix("error: ").rstrip("\n")


def rows_of(content: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content)))


def rewrite(project: Project, change: Callable[[list[dict[str, str]]], object]) -> None:
    """Change the rows of the workspace's predictions in place."""
    rows = rows_of(project.read(PREDICTIONS).decode())
    change(rows)
    with (project.folder / PREDICTIONS).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def answer_rightly(rows: list[dict[str, str]]) -> None:
    for row in rows:
        row["predicted"] = row["actual"]


def test_all_that_is_found_is_in_the_json(two_runs: Project) -> None:
    found = compare_as_json(two_runs, "main", "short")
    commit = two_runs.git("for-each-ref", "--format=%(objectname)", "refs/exps/*/*/short").strip()
    tables = [rows_of(two_runs.git("show", f"{revision}:{PREDICTIONS}")) for revision in ("main", commit)]
    rights = [[row["actual"] == row["predicted"] for row in table] for table in tables]
    outcomes = list(zip(*rights, strict=True))
    assert list(found) == [
        "revisions", "count", "first", "second", "paired", "right_in_both", "right_in_first_only",
        "right_in_second_only", "wrong_in_both", "classes", "params", "doubts",
    ]  # fmt: skip
    assert found["revisions"] == {"first": "main", "second": "short"}
    assert found["count"] == 100
    for name, right, revision in zip(("first", "second"), rights, ("main", commit), strict=True):
        assert found[name]["value"] == json.loads(two_runs.git("show", f"{revision}:metrics/test.json"))["accuracy"]
        low, high = stats.binomtest(sum(right), 100).proportion_ci(method="wilson")
        assert found[name]["interval"] == {"low": low, "high": high}
    flips = [outcomes.count((False, True)), outcomes.count((True, False))]
    assert sum(flips) > 0
    assert [found["right_in_second_only"], found["right_in_first_only"]] == flips
    assert [found["right_in_both"], found["wrong_in_both"]] == [
        outcomes.count((True, True)),
        outcomes.count((False, False)),
    ]
    assert found["paired"]["difference"] == pytest.approx((flips[0] - flips[1]) / 100)
    assert found["paired"]["p_value"] == pytest.approx(stats.binomtest(flips[0], sum(flips)).pvalue)
    assert [item["name"] for item in found["classes"]] == sorted({row["actual"] for row in tables[0]})
    assert sum(item["first"] * item["count"] for item in found["classes"]) == pytest.approx(sum(rights[0]))
    assert sum(item["second"] * item["count"] for item in found["classes"]) == pytest.approx(sum(rights[1]))
    assert found["params"] == [
        {"key": "train.epochs", "first": 2, "second": 1},
        {"key": "train.learning_rate", "first": 0.08, "second": 0.5},
    ]
    assert found["doubts"] == []


def test_the_tables_say_the_same(two_runs: Project) -> None:
    found, text = compare_as_json(two_runs, "main", "short"), compare(two_runs, "main", "short")
    assert "A: main, B: short, on 100 test images" in text
    for name, accuracy in (("A", found["first"]), ("B", found["second"])):
        figures = accuracy["value"], accuracy["interval"]["low"], accuracy["interval"]["high"]
        assert re.search(rf"│ {name} +│ +{' │ +'.join(f'{value:.4f}' for value in figures)} │", text)
    paired = found["paired"]
    figures = paired["difference"], paired["interval"]["low"], paired["interval"]["high"]
    assert re.search(rf"│ B - A +│ +{' │ +'.join(re.escape(f'{value:+.4f}') for value in figures)} │", text)
    for name, key in (("A only", "first_only"), ("B only", "second_only"), ("both", "both")):
        assert re.search(rf"│ {name} +│ +{found[f'right_in_{key}']} │", text)
    assert f"McNemar's exact p = {paired['p_value']:.4f}" in text
    for item in found["classes"]:
        assert re.search(rf"│ {item['name']} +│ +10 │ +{item['first']:.4f} │ +{item['second']:.4f} │", text)
    assert re.search(r"│ train.epochs +│ +2 │ +1 │", text)
    assert re.search(r"│ train.learning_rate +│ +0.08 │ +0.5 │", text)
    assert "Note:" not in text


def test_the_other_way_round_gains_are_losses(two_runs: Project) -> None:
    one, other = (compare_as_json(two_runs, *names) for names in (("main", "short"), ("short", "main")))
    assert one["paired"]["difference"] == -other["paired"]["difference"]
    assert one["right_in_first_only"] == other["right_in_second_only"]
    assert one["paired"]["p_value"] == other["paired"]["p_value"]


def test_without_names_the_commit_is_compared_with_the_workspace_and_with_one_name_that(two_runs: Project) -> None:
    alone, one = compare_as_json(two_runs), compare_as_json(two_runs, "short")
    assert alone["revisions"] == {"first": "HEAD", "second": "workspace"}
    assert one["revisions"] == {"first": "short", "second": "workspace"}
    assert one | {"revisions": None} == compare_as_json(two_runs, "short", "main") | {"revisions": None}


def test_the_same_run_twice_does_not_differ(two_runs: Project) -> None:
    text = compare(two_runs, "short", "short")
    assert "No difference: each image is right in both or wrong in both.\n" in text
    assert "No parameter differs.\n" in text
    found = compare_as_json(two_runs, "workspace", "workspace")
    assert (found["paired"]["difference"], found["paired"]["p_value"], found["params"]) == (0, 1, [])


def test_a_difference_that_is_more_than_chance_is_called_significant(pipeline: Project) -> None:
    rewrite(pipeline, answer_rightly)
    found, text = compare_as_json(pipeline), compare(pipeline)
    gained = found["right_in_second_only"]
    assert found["second"]["value"] == 1
    assert found["paired"]["p_value"] == pytest.approx(2 / 2**gained)
    assert "These two networks differ significantly (5 % level): B is right more often than A" in text
    assert "Whether the settings differ takes several seeds (lenet-cifar10 seeds)." in text
    assert "border case" not in text
    assert f"p = {found['paired']['p_value']:.1e}" in text
    assert "up" in {item["moved"] for item in found["classes"]}
    swapped = compare(pipeline, "workspace", "HEAD")
    assert "B is right less often than A" in swapped


def test_one_flipped_image_is_not_called_significant(pipeline: Project) -> None:
    def mend_one(rows: list[dict[str, str]]) -> None:
        wrong = next(row for row in rows if row["actual"] != row["predicted"])
        wrong["predicted"] = wrong["actual"]

    rewrite(pipeline, mend_one)
    expected = "These two networks do not differ significantly (5 % level; McNemar's exact p = 1.0000).\n"
    assert expected in compare(pipeline)


def test_an_interval_and_a_test_that_disagree_are_called_a_border_case(pipeline: Project) -> None:
    """Of 10,000 images 130 were gained and 100 lost: the interval begins just above 0, but p is 0.056."""
    for revision, right in (("A", range(100)), ("B", range(100, 230))):
        rows = [[index, "cat", "cat" if index in right else "dog", 0.5] for index in range(10_000)]
        with (pipeline.folder / PREDICTIONS).open("w", newline="") as file:
            csv.writer(file).writerows([["index", "actual", "predicted", "confidence"], *rows])
        pipeline.commit(revision)
    text = compare(pipeline, "HEAD~1", "HEAD")
    assert re.search(r"B - A +│ \+0.0030 │ +\+0.0000 │ \+0.0060", text)
    assert (
        "do not differ significantly (5 % level; McNemar's exact p = 0.0556). "
        "The interval is approximate, the test exact: a border case.\n"
    ) in text


def test_a_table_that_dvc_lock_does_not_describe_is_told(pipeline: Project) -> None:
    rewrite(pipeline, answer_rightly)
    expected = f"{PREDICTIONS} is not the one in dvc.lock: changed by hand, or its run is not whole; run dvc repro"
    assert compare_as_json(pipeline)["doubts"] == [expected]
    assert compare(pipeline).startswith(f"Note: {expected}\n")
    pipeline.commit("a table that no run wrote")
    assert compare_as_json(pipeline, "HEAD", "HEAD")["doubts"] == [
        expected.replace(PREDICTIONS, f"{PREDICTIONS} in HEAD")
    ]


def test_parameters_that_were_changed_after_the_run_are_told(pipeline: Project) -> None:
    pipeline.change_params({"train.epochs": 3, "data.urls": ["a.tar.gz", "b.tar.gz"]})
    found = compare_as_json(pipeline)
    assert found["doubts"] == ["params.yaml was changed after the run (train.epochs); run dvc repro"]
    assert [entry["key"] for entry in found["params"]] == ["data.urls"]
    text = pipeline.run("lenet-cifar10", "compare").text  # a wider terminal, so that the path stands in one line
    assert re.search(r"│ data.urls +│ .*generated.tar.gz │ +a.tar.gz │\n│ +│ +│ +b.tar.gz │", text)


def test_parameters_of_one_run_only_are_shown(pipeline: Project) -> None:
    params = pipeline.folder / "params.yaml"
    params.write_text(params.read_text() + "\nextra:\n  knob: cosine\n")
    assert compare_as_json(pipeline)["params"] == [{"key": "extra.knob", "second": "cosine"}]
    assert re.search(r"│ extra.knob +│ +- │ +cosine │", compare(pipeline))


def test_answers_of_weights_that_were_replaced_since_are_told(pipeline: Project) -> None:
    pipeline.change_params({"train.epochs": 1})
    pipeline.dvc("repro", "train")
    doubts = compare_as_json(pipeline)["doubts"]
    assert doubts == [f"{PREDICTIONS} is of an earlier data/model/lenet.safetensors; run dvc repro"]


def test_fresh_answers_are_not_doubted_where_a_later_stage_is_stale(pipeline: Project) -> None:
    pipeline.change_params({"seed": 4})
    pipeline.dvc("repro", "evaluate")
    assert compare_as_json(pipeline)["doubts"] == []


def test_without_dvc_lock_only_the_labels_are_compared_and_that_is_told(pipeline: Project) -> None:
    pipeline.git("rm", "--quiet", "--cached", "dvc.lock")
    pipeline.git("commit", "--quiet", "--message", "without")
    assert compare_as_json(pipeline)["doubts"] == [
        "dvc.lock in HEAD has no data/prepared/test.npz, so only the labels show that the test images are the same"
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows.pop(), "100 and 99 images"),
        (lambda rows: rows[4].update(index="400"), "row 5 is of image 4 and of image 400"),
        (lambda rows: rows[4].update(actual="cat"), r"image 4 is of class '\w+' and of class 'cat'"),
    ],
)
def test_tables_of_other_images_are_refused(
    pipeline: Project, change: Callable[[list[dict[str, str]]], object], reason: str
) -> None:
    rewrite(pipeline, change)
    expected = rf"HEAD and workspace: are not of the same test images \({reason}\); compare runs on the same data"
    assert re.fullmatch(expected, complaint(pipeline))


def test_the_same_labels_on_other_images_are_refused(pipeline: Project) -> None:
    lock = pipeline.read("dvc.lock").decode()
    entry = re.search(r"path: data/prepared/test.npz\n +hash: md5\n +md5: (\w+)", lock)
    assert entry
    (pipeline.folder / "dvc.lock").write_text(lock.replace(entry[1], "f" * 32))
    expected = f"(data/prepared/test.npz has MD5 {entry[1]} and {'f' * 32})"
    assert expected in complaint(pipeline)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], "nowhere: is no commit, branch, tag or experiment; see git log or dvc exp list"),
        (["HEAD", "nowhere"], "nowhere: is no commit, branch, tag or experiment; see git log or dvc exp list"),
        (["HEAD~1", "--json"], f"{PREDICTIONS} in HEAD~1: is not there; run dvc repro"),
    ],
)
def test_a_revision_that_is_none_or_was_not_run_is_told(two_runs: Project, words: list[str], expected: str) -> None:
    assert complaint(two_runs, *words).startswith(expected)


def test_a_damaged_table_is_told_with_its_revision(pipeline: Project) -> None:
    path = pipeline.folder / PREDICTIONS
    path.write_bytes(path.read_bytes()[:-10])
    assert complaint(pipeline).startswith(f"{PREDICTIONS}: is damaged (row 100 has ")
    pipeline.commit("cut off")
    assert complaint(pipeline, "HEAD", "HEAD~1").startswith(f"{PREDICTIONS} in HEAD: is damaged (row 100 has ")


def test_three_names_are_a_wrong_call(two_runs: Project) -> None:
    assert two_runs.run("lenet-cifar10", "compare", "main", "short", "HEAD", check=False).status == 2
