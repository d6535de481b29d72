"""`lenet-cifar10 compare`, as people call it, on runs of the real pipeline."""

import json
import re
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pytest
from project import change_params, commit, run
from scipy import stats
from typer.testing import CliRunner

from lenet_cifar10.commands import app
from lenet_cifar10.common.stage import UserError

PREDICTIONS = "plots/predictions.csv"


def compare(folder: Path, *words: str) -> str:
    """What compare prints, called in this process, where SciPy and DVC have been imported already."""
    with chdir(folder):
        result = CliRunner().invoke(app, ["compare", *words], catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def compare_as_json(folder: Path, *words: str) -> dict[str, Any]:
    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(compare(folder, *words, "--json"), parse_constant=refuse)


def complaint(folder: Path, *words: str) -> str:
    with chdir(folder), pytest.raises(UserError) as caught:
        CliRunner().invoke(app, ["compare", *words], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change the workspace's predictions."""
    table = pd.read_csv(folder / PREDICTIONS)
    change(table).to_csv(folder / PREDICTIONS, index=False, lineterminator="\n")


def all_right(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(predicted=table["actual"])


def test_json_holds_everything_that_was_found(project_copy: Path) -> None:
    before = pd.read_csv(project_copy / PREDICTIONS)
    rewrite(project_copy, lambda table: table.assign(predicted=["disc"] * 50 + table["actual"].tolist()[50:]))
    after = pd.read_csv(project_copy / PREDICTIONS)
    change_params(project_copy, {"data.urls": ["other.tar.gz"]})
    result = compare_as_json(project_copy, "main")
    rights = [table["actual"].to_numpy() == table["predicted"].to_numpy() for table in (before, after)]
    for key, revision, right in zip(("first", "second"), ("main", "workspace"), rights, strict=True):
        assert result["revisions"][key]["revision"] == revision
        assert result["revisions"][key]["data"] == "generated images"
        low, high = stats.binomtest(int(right.sum()), 100).proportion_ci(method="wilson")
        assert result[key] == {"value": right.mean(), "interval": {"low": low, "high": high}}
    gained, lost = int((~rights[0] & rights[1]).sum()), int((rights[0] & ~rights[1]).sum())
    assert gained > 0
    assert lost > 0
    assert [result["right_in_second_only"], result["right_in_first_only"]] == [gained, lost]
    assert result["paired"]["difference"] == pytest.approx((gained - lost) / 100)
    assert result["paired"]["p_value"] == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert [item["name"] for item in result["classes"]] == sorted(set(before["actual"]))
    assert list(result["params"]) == ["data.urls"]
    assert result["params"]["data.urls"]["second"] == ["other.tar.gz"]
    reverse = compare_as_json(project_copy, "workspace", "main")
    assert reverse["paired"]["difference"] == -result["paired"]["difference"]


def test_tables_say_the_same_and_list_the_classes_that_moved(project_copy: Path) -> None:
    rewrite(project_copy, lambda table: all_right(table).replace({"predicted": {"ring": "disc"}}))
    commit(project_copy, "no ring is right")
    rewrite(project_copy, all_right)
    text, everything = compare(project_copy), compare(project_copy, "--all-classes")
    assert re.search(r"^A: HEAD \(generated images; .+\)\nB: workspace \(generated images; .+\)$", text, re.MULTILINE)
    assert "On 100 test images" in text
    low, high = stats.binomtest(90, 100).proportion_ci(method="wilson")
    assert re.search(rf"│ A +│ +0.9000 │ +{low:.4f} │ +{high:.4f} │", text)
    assert re.search(r"│ B - A +│ +\+0.1000 │", text)
    assert "Right in A only: 0 images; in B only: 10." in text
    assert f"These two networks differ significantly (5 % level; McNemar's exact p = {2 / 2**10:.4f})" in text
    classes = set(pd.read_csv(project_copy / PREDICTIONS)["actual"])
    assert [name for name in classes if f"│ {name} " in text] == ["ring"]
    assert all(f"│ {name} " in everything for name in classes)


def test_a_run_does_not_differ_from_itself(pipeline: Path) -> None:
    text = compare(pipeline)
    assert "These two networks do not differ significantly (5 % level; McNemar's exact p = 1.0000).\n" in text
    assert "No class moved" in text
    assert "No parameter differs.\n" in text
    assert "Note:" not in text


def test_a_table_that_is_not_the_run_s_is_doubted(project_copy: Path) -> None:
    rewrite(project_copy, all_right)
    change_params(project_copy, {"train.epochs": 3})
    doubts = [
        f"{PREDICTIONS} is not the one in dvc.lock; run dvc repro",
        "params.yaml was changed after the run (train.epochs); run dvc repro",
    ]
    assert compare_as_json(project_copy)["doubts"] == doubts
    assert f"Note: {doubts[0]}\n" in compare(project_copy)


def test_results_without_dvc_lock_and_cache_are_compared_by_their_labels(project_copy: Path) -> None:
    run(project_copy, "git", "rm", "--quiet", "--cached", "dvc.lock")
    run(project_copy, "git", "commit", "--quiet", "--message", "without")
    result = compare_as_json(project_copy)
    assert result["revisions"]["first"]["data"] == "data not recorded, see metrics/README.md"
    assert result["revisions"]["first"]["device"] == "device not recorded, see metrics/README.md"
    assert result["doubts"] == []


def test_runs_on_other_images_are_refused(project_copy: Path) -> None:
    lock = (project_copy / "dvc.lock").read_text()
    entry = re.search(r"path: data/prepared/test.safetensors\n +hash: md5\n +md5: (\w+)", lock)
    assert entry
    (project_copy / "dvc.lock").write_text(lock.replace(entry[1], "f" * 32))
    expected = f"(data/prepared/test.safetensors has MD5 {entry[1]} and {'f' * 32}); compare runs on the same data"
    assert expected in complaint(project_copy)
    (project_copy / "dvc.lock").write_text(lock)
    rewrite(project_copy, lambda table: table.iloc[:-1])
    assert "HEAD and workspace: are not of the same test images (100 and 99 images)" in complaint(project_copy)


def test_a_revision_that_is_unknown_has_no_run_or_a_damaged_table_is_named(project_copy: Path) -> None:
    assert complaint(project_copy, "nowhere").startswith("nowhere: is no commit, branch, tag or experiment")
    assert complaint(project_copy, "HEAD~1", "--json").startswith(f"{PREDICTIONS} in HEAD~1: no such file")
    (project_copy / PREDICTIONS).write_bytes(b"index,actual\n0,cat\n")
    assert complaint(project_copy).startswith(f"{PREDICTIONS}: has no column predicted")
