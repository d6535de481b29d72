"""What the project is compared with: a DataLoader over Pillow images with torchvision's transforms.

The same network in its usual form, with the usual recipe for it: Adam 0.001, batches of 100, flips, rotation and shear
by up to 10 degrees, zoom 0.8 to 1.2, colours 0.8 to 1.2. It was written for this comparison.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lenet_cifar10.data.arrays import Split

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

    def __init__(self, split: Split) -> None:
        self.rows, self.labels = split.images.transpose(0, 2, 3, 1), split.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image: Any = AUGMENTATION(Image.fromarray(self.rows[index]))
        return TO_INPUT(image), self.labels[index]


def make_network(classes: int) -> nn.Sequential:
    """ReLU before pooling, channels first."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 500), nn.ReLU(), nn.Dropout(0.5), nn.Linear(500, classes)),
    )


class Baseline:
    """A network, its optimizer and its loader; with 0 workers the training process loads and augments."""

    def __init__(self, split: Split, workers: int) -> None:
        torch.manual_seed(0)
        self.network = make_network(len(split.class_names))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.001)
        options = {"num_workers": workers, "persistent_workers": workers > 0}
        self.loader = DataLoader(Pictures(split), batch_size=100, shuffle=True, **options)

    def train_epoch(self) -> None:
        """Train on every image once."""
        for images, labels in self.loader:
            self.optimizer.zero_grad()
            functional.cross_entropy(self.network(images), labels).backward()
            self.optimizer.step()


@contextmanager
def baseline_process(split: Split, workers: int) -> Iterator[Callable[[], object]]:
    """A function that trains an epoch in a process of its own, which has torch's usual settings and not ours."""
    with ProcessPoolExecutor(1, get_context("spawn"), _start, (split, workers)) as pool:
        yield lambda: pool.submit(_train_epoch).result()


def _start(split: Split, workers: int) -> None:
    global _baseline
    _baseline = Baseline(split, workers)


def _train_epoch() -> None:
    _baseline.train_epoch()
