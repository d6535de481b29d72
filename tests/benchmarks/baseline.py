"""What the project is measured against: a DataLoader with torchvision's transforms on Pillow images.

The same network in its plain form, and the recipe that is common for it: Adam 0.001, batches of 100, flips, rotation
and shear by up to 10 degrees, zoom 0.8 to 1.2, colours 0.8 to 1.2. Written for this comparison, after the way most
notebooks do it.
"""

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lenet_cifar10.dataset import Split

BATCH_SIZE = 100
AUGMENTATION = transforms.Compose(
    [
        transforms.RandomHorizontalFlip(),
        transforms.RandomRotation(10),
        transforms.RandomAffine(0, shear=10, scale=(0.8, 1.2)),
        transforms.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
    ]
)
TO_INPUT = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])


class Pictures(Dataset):
    """The images of a split, one by one, as torchvision.datasets.CIFAR10 gives them."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], Tensor]) -> None:
        self.rows = split.images.transpose(0, 2, 3, 1)
        self.labels = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.rows[index])), self.labels[index]


class PlainLeNet(nn.Sequential):
    """The network as it is usually written: ReLU before pooling, channels first."""

    def __init__(self, classes: int) -> None:
        super().__init__(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(1024, 500), nn.ReLU(), nn.Dropout(0.5), nn.Linear(500, classes)),
        )


class Baseline:
    """A network, its optimizer and its loaders; `workers` load and augment, 0 does it in the training process."""

    def __init__(self, training: Split, validation: Split, classes: int, workers: int) -> None:
        torch.manual_seed(0)
        self.network = PlainLeNet(classes)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.001)
        augmented = Pictures(training, transforms.Compose([AUGMENTATION, TO_INPUT]))
        options = {"num_workers": workers, "persistent_workers": workers > 0}
        self.training = DataLoader(augmented, BATCH_SIZE, shuffle=True, **options)
        self.validation = DataLoader(Pictures(validation, TO_INPUT), BATCH_SIZE)

    def train_epoch(self) -> None:
        """Train on every image once."""
        self.network.train()
        for images, labels in self.training:
            self.optimizer.zero_grad()
            functional.cross_entropy(self.network(images), labels).backward()
            self.optimizer.step()

    @torch.inference_mode()
    def validate(self) -> float:
        """The accuracy on the validation images, in eval mode."""
        self.network.eval()
        hits = sum((self.network(images).argmax(1) == labels).sum().item() for images, labels in self.validation)
        return hits / len(self.validation.dataset)  # pyright: ignore[reportArgumentType]


class BaselineProcess:
    """The baseline in a process of its own, as a context: without the settings that this project makes for itself."""

    def __init__(self, training: Split, validation: Split, classes: int, workers: int) -> None:
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, training, validation, classes, workers))
        self.process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()  # ends its loop
        self.process.join()

    def train_epoch(self) -> None:
        """Train on every image once."""
        self._call("train_epoch")

    def validate(self) -> float:
        """The accuracy on the validation images, in eval mode."""
        return self._call("validate")

    def _call(self, method: str) -> float:
        self.connection.send(method)
        return self.connection.recv()


def _serve(connection: Connection, training: Split, validation: Split, classes: int, workers: int) -> None:
    baseline = Baseline(training, validation, classes, workers)
    try:
        while True:
            connection.send(getattr(baseline, connection.recv())())
    except EOFError:
        pass
