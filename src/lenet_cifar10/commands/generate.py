"""Write generated images as an archive in CIFAR-10's layout."""

from pathlib import Path
from typing import Annotated

import typer

from lenet_cifar10.common.stage import UserError


def generate(
    path: Annotated[Path, typer.Argument(help="The file to write, such as data/generated.tar.gz.")],
    train: Annotated[int, typer.Option(help="Training images, a multiple of ten.", min=10, max=100_000)] = 6000,
    test: Annotated[int, typer.Option(help="Test images, a multiple of ten.", min=10, max=20_000)] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed draws other images.", min=0)] = 0,
) -> None:
    """Draw ten classes of shapes and write them as an archive in CIFAR-10's layout.

    Prints the file's SHA-256, the value for data.sha256.

    \b
    Examples:
      lenet-cifar10 generate data/generated.tar.gz
      lenet-cifar10 generate data/small.tar.gz --train 400 --test 100
    """
    from lenet_cifar10.common.files import hash_file
    from lenet_cifar10.data.synthetic import write_archive

    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected the name of a file to write, such as {path}/generated.tar.gz")
    write_archive(path, train, test, seed)
    typer.echo(hash_file(path))
