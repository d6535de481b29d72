"""LeNet on CIFAR-10: the code behind the stages of dvc.yaml, and the command lenet-cifar10."""
