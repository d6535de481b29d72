"""A convolution as columns and one matrix product (K. Chellapilla et al., 2006), to compare with cuDNN's on a GPU."""

from torch import Tensor, nn
from torch.nn import functional


class Columns(nn.Module):
    """The 3x3 convolution with padding 1 whose weights it takes over: equal to it but for rounding."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W), channels last in memory."""
        # Not functional.unfold, which on CUDA launches a kernel for each image.
        windows = functional.pad(images, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)  # (N, C, H, W, 3, 3)
        columns = windows.permute(0, 2, 3, 1, 4, 5).flatten(3)  # (N, H, W, 9 * C)
        return functional.linear(columns, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
