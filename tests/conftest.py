"""What test files share: the parameters, and one pipeline that has been run on generated images."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from project import SOURCE, commit, copy_project, run, use_generated_images

from lenet_cifar10.common.params import Params, load_params


@pytest.fixture(scope="session")
def params() -> Params:
    """The parameters of this project's params.yaml."""
    return load_params(SOURCE / "params.yaml")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of one test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def dvc_notes(shared_folder: Path) -> Iterator[None]:
    """Have DVC keep its notes on files in the test run's folder; they are in /var/tmp else, and stay there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(shared_folder / "dvc-notes"))
        yield


@pytest.fixture(scope="session")
def pipeline(shared_folder: Path, dvc_notes: None) -> Path:
    """A project whose pipeline was run on 400 generated images and committed. Read it, or change `project_copy`."""
    folder = shared_folder / "pipeline"
    finished = shared_folder / "pipeline.finished"
    with FileLock(shared_folder / "pipeline.lock"):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            copy_project(folder)
            use_generated_images(folder)
            commit(folder, "generated images")
            run(folder, "dvc", "repro")
            commit(folder, "run")
            finished.touch()
    return folder


@pytest.fixture
def project_copy(pipeline: Path, tmp_path: Path) -> Path:
    """A test's own copy of the pipeline."""
    return Path(shutil.copytree(pipeline, tmp_path / "project", symlinks=True))
