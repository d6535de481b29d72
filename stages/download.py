"""Download: the archive that params.yaml pins by its hash -> data/raw/."""

import os
from pathlib import Path

from lenet_cifar10 import interruption

interruption.answer_signals()

from lenet_cifar10 import stage
from lenet_cifar10.fetch import fetch
from lenet_cifar10.params import Params

ARCHIVE = Path("data/raw/cifar-10-python.tar.gz")


def main() -> None:
    """Fetch the archive from the first source that serves it."""
    section = Params.load(Path("params.yaml")).data
    # In an experiment's copy DVC_ROOT is the project that the copy was made from: a partial file outlives the copy.
    project = Path(os.environ.get("DVC_ROOT", "."))
    fetch(section.urls, section.sha256, ARCHIVE, resume_folder=project / ".resume/downloads", base_folder=project)


if __name__ == "__main__":
    stage.run(main)
