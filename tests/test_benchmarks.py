"""The benchmarks' recipes are ones that the workflow takes; what they measure is for people to run."""

from benchmarks.bench import CLASSIC, SHORT_RECIPE, dotted, make_params
from project import Project


def test_the_recipes_are_accepted(bare_project: Project) -> None:
    assert make_params(CLASSIC).train.optimizer == "adam"
    bare_project.change_params(dotted(SHORT_RECIPE))
    # The parameters are read first: what is missing then is the data.
    assert "data/prepared/classes.json: no such file" in bare_project.stage("train").text
