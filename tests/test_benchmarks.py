"""The benchmarks run, on few images; what they measure is for people to read."""

from pathlib import Path

import pytest
from benchmarks import bench
from benchmarks.recipes import make_params, read_classic

from lenet_cifar10.common.params import Params, flatten
from lenet_cifar10.data.synthetic import write_archive


def test_the_classic_recipe_names_every_setting_of_the_training(params: Params) -> None:
    """So that a change of the defaults leaves it as it is."""
    classic = read_classic()
    settings = {key for key in flatten(params) if key.startswith(("augment.", "model.", "train."))}
    assert settings - classic.keys() == {"train.threads", "train.micro_batches"}
    assert make_params(classic).train.optimizer == "adam"


@pytest.mark.slow
def test_bench_measures_two_processes_and_another_checkout(tmp_path: Path) -> None:
    archive = tmp_path / "generated.tar.gz"
    write_archive(archive, train=500, test=100, seed=0)
    size = bench.Size(runs=1, augmented_images=100, arrangements=((1, 1, 1), (2, 2, 1)))
    tables = [*bench.measure(tmp_path / "alone", archive, 100, size, None)]
    tables += bench.measure(tmp_path / "against", archive, 100, size, bench.ROOT)
    assert [len(table.rows) for table in tables] in ([1, 1, 2, 2, 2], [1, 1, 3, 2, 2])  # bfloat16 where it is supported
    assert all(len(row) == len(table.header) for table in tables for row in table.rows)
