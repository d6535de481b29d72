"""The network: a LeNet for 32x32 colour images."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lenet_cifar10.common.params import ModelSection


class LeNet(nn.Module):
    """Three convolutions, each with max-pooling and ReLU, then two linear layers: 541,094 parameters at ten classes.

    After the LeNet of Y. LeCun et al., "Gradient-based learning applied to document recognition" (1998), in the
    form that is common for CIFAR-10: 3x3 convolutions to 16, 32 and 64 channels, 500 hidden units with dropout. The
    weights are initialized after K. He et al., "Delving deep into rectifiers" (2015).
    """

    def __init__(self, section: ModelSection, classes: int) -> None:
        super().__init__()
        self.dropout = section.dropout
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.hidden = nn.Linear(64 * 4 * 4, 500)
        self.output = nn.Linear(500, classes)
        # torch's own initialization shrinks the features from layer to layer: few steps would teach nothing.
        for values in self.parameters():
            if values.ndim == 1:  # a bias
                nn.init.zeros_(values)
            else:
                nn.init.kaiming_normal_(values, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (N, 3, 32, 32) -> logits (N, classes)."""
        return self.classify(normalize(images))

    def classify(self, features: Tensor) -> Tensor:
        """Normalized images (N, 3, 32, 32), as `normalize` gives them -> logits (N, classes)."""
        for convolution in (self.conv1, self.conv2, self.conv3):
            # ReLU after pooling equals ReLU before it, on a quarter of the values.
            features = functional.relu(functional.max_pool2d(convolution(features), 2))
        hidden = functional.relu(self.hidden(features.flatten(1)))
        return self.output(functional.dropout(hidden, self.dropout, self.training))


def normalize(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> float32 from -1 to 1, channels last in memory.

    Equal to torchvision's ToTensor and Normalize(0.5, 0.5) to the bit.
    """
    pixels = images.to(torch.float32, memory_format=torch.channels_last)
    # Divided by a tensor: CUDA multiplies by the reciprocal of a plain number, which differs in the last bit.
    return pixels.div_(torch.full((), 255.0, device=images.device)).sub_(0.5).mul_(2)
