"""The README's tour, every line of it, on small data."""

import re

from PIL import Image
from project import SOURCE, Project


def read_tour() -> list[str]:
    """The tour's command lines, without their comments."""
    text = (SOURCE / "README.md").read_text()
    block = text[text.index("## A short tour") :].split("```")[1]
    return [re.sub(r" {2,}#.*", "", line).strip() for line in block.splitlines() if line.strip()]


def test_every_line_of_the_tour_works_in_turn(pipeline: Project) -> None:
    pipeline.git("reset", "--quiet", "--soft", "HEAD~1")  # the run is there, not yet committed
    Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 50).save(pipeline.folder / "photo.jpg")
    said = {}
    for line in read_tour():
        said[line] = pipeline.run("bash", "-c", line).text
    assert len(said) == 14
    words = {
        "exp show": "calm",
        "compare": "McNemar",
        "page": "dvc_plots/report.html",
        "predict": "photo.jpg",
        "seeds": "dropout",
        "sweep": "dvc exp apply",
        "verify": "all as in dvc.lock",
    }
    for command, word in words.items():
        (text,) = [text for line, text in said.items() if re.search(rf"^\S+ {command}\b", line)]
        assert word in text, f"{command}: {text}"
    assert "Calmer" in pipeline.git("log", "--oneline")
    assert "calm" not in pipeline.dvc("exp", "list", "--all-commits", "--name-only")
