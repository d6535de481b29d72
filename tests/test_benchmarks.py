"""The benchmarks' recipes are those of the Makefile; what they measure is for people to run."""

import re

import pytest
from benchmarks.bench import make_params
from benchmarks.recipes import CLASSIC, SHORT, Changes, dotted
from project import SOURCE, Project
from ruamel.yaml import YAML


def test_the_recipes_are_accepted(bare_project: Project) -> None:
    assert make_params(CLASSIC).train.optimizer == "adam"
    bare_project.change_params(dotted(SHORT))
    # The parameters are read first: what is missing then is the data.
    assert "data/prepared/classes.json: no such file" in bare_project.stage("train").text


@pytest.mark.parametrize(("recipe", "name"), [(CLASSIC, "CLASSIC"), (SHORT, "SHORT")])
def test_a_recipe_is_the_same_wherever_it_stands(recipe: Changes, name: str) -> None:
    text = (SOURCE / "Makefile").read_text()
    block = text[text.index(f"{name} :=") :].split("\n\n")[0]
    written = dict(re.findall(r"--set-param ([a-z_]+\.[a-z_]+)=(\S+)", block))
    assert {key: YAML(typ="safe").load(value) for key, value in written.items()} == dotted(recipe)
