"""`python -m lenet_cifar10.commands`, where the package is not installed."""

from lenet_cifar10.commands import main

main()
