"""The network, its augmentation, weights, device and scores."""
