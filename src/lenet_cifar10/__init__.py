"""LeNet on CIFAR-10 as a DVC workflow that reruns to the bit."""
