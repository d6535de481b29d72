"""What several test files share: a generated archive and a project whose pipeline has been run on it."""

import shutil
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

import pytest
from filelock import FileLock
from project import Project, copy_project

from lenet_cifar10 import archive
from lenet_cifar10.drawings import draw_archive


@dataclass(frozen=True)
class GeneratedArchive:
    """An archive of 400 training and 100 test images."""

    path: Path
    sha256: str


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all processes of one test run share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def generated(shared_folder: Path) -> GeneratedArchive:
    """A small archive of generated images, made once."""
    path = shared_folder / "generated.tar.gz"
    with FileLock(shared_folder / "generated.lock"):
        if not path.exists():
            archive.write(path, draw_archive(train_count=400, test_count=100, seed=0))
    with path.open("rb") as file:
        return GeneratedArchive(path, file_digest(file, "sha256").hexdigest())


@pytest.fixture
def bare_project(tmp_path: Path) -> Project:
    """A project as it is cloned, in which nothing has been run."""
    folder = tmp_path / "project"
    folder.mkdir()
    return copy_project(folder)


@pytest.fixture(scope="session")
def pipeline_template(shared_folder: Path, generated: GeneratedArchive) -> Path:
    """A project on small data whose pipeline has been run and committed, once for all tests. Copy it, leave it."""
    folder = shared_folder / "pipeline"
    with FileLock(shared_folder / "pipeline.lock"):
        done = shared_folder / "pipeline.done"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            project = copy_project(folder)
            project.change_params(
                {
                    "data.urls": [str(generated.path)],
                    "data.sha256": generated.sha256,
                    "data.validation_size": 100,
                    "train.epochs": 2,
                    "train.batch_size": 50,
                    "train.threads": 1,
                    "figures.dpi": 50,
                }
            )
            project.commit("small data")
            project.dvc("repro")
            project.commit("run")
            done.touch()
    return folder


@pytest.fixture
def pipeline(pipeline_template: Path, tmp_path: Path) -> Project:
    """A test's own copy of the project whose pipeline has been run and committed."""
    folder = tmp_path / "pipeline"
    shutil.copytree(pipeline_template, folder, symlinks=True)
    return Project(folder)
