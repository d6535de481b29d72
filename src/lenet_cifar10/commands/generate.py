"""Write generated images as an archive in CIFAR-10's layout."""

from hashlib import file_digest
from pathlib import Path
from typing import Annotated

import typer

from lenet_cifar10.errors import UserError


def generate(
    path: Annotated[Path, typer.Argument(help="The file to write, such as data/generated.tar.gz.")],
    train: Annotated[int, typer.Option(help="Training images, a multiple of ten.", min=10, max=100_000)] = 6000,
    test: Annotated[int, typer.Option(help="Test images, a multiple of ten.", min=10, max=20_000)] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed draws other images.", min=0)] = 0,
) -> None:
    """Draw ten classes of shapes, write them as an archive that the workflow takes for CIFAR-10.

    Prints the file's SHA-256, which is what data.sha256 wants.

    \b
    Examples:
      lenet-cifar10 generate data/generated.tar.gz
      lenet-cifar10 generate data/small.tar.gz --train 400 --test 100
    """
    from lenet_cifar10 import archive  # here, for importing NumPy and more takes a third of a second
    from lenet_cifar10.drawings import draw_archive

    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected the name of a file to write, such as {path}/generated.tar.gz")
    archive.write(path, draw_archive(train, test, seed))
    with path.open("rb") as file:
        typer.echo(file_digest(file, "sha256").hexdigest())
