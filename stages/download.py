"""Download: the archive whose SHA-256 is data.sha256 -> data/raw/."""

import os
from pathlib import Path

from lenet_cifar10.common.params import load_params
from lenet_cifar10.common.stage import run_stage
from lenet_cifar10.data.download import download

ARCHIVE = Path("data/raw/cifar-10-python.tar.gz")


def main() -> None:
    """Download the archive from the first source that has it."""
    section = load_params(Path("params.yaml")).data
    # In an experiment's copy DVC_ROOT is the project that the copy was made from; a partial file outlives the copy.
    project = Path(os.environ.get("DVC_ROOT", "."))
    download(section.urls, section.sha256, ARCHIVE, project / ".checkpoints/downloads", base_folder=project)


if __name__ == "__main__":
    run_stage(main)
