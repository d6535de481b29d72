"""Recipes beside the default one, as changes to params.yaml by section."""

from typing import Any

Changes = dict[str, dict[str, Any]]

# The recipe that is common for this network, as the baseline and `make classic` have it.
CLASSIC: Changes = {
    "augment": {
        "flip_probability": 0.5,
        "translation_pixels": 0,
        "rotation_degrees": 10,
        "shear_degrees": 10,
        "scale": 0.2,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "border": "zero",
    },
    "model": {"dropout": 0.5, "first_layer": "learned"},
    "train": {
        "precision": "float32",
        "epochs": 20,
        "optimizer": "adam",
        "momentum": 0.0,
        "learning_rate": 0.001,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_fraction": 0.0,
        "batch_size": 100,
        "label_smoothing": 0.0,
        "averaging_decay": 0.0,
    },
}

# Reaches the accuracy of the baseline's 20 epochs in five, as `make short` does.
SHORT: Changes = {
    "train": {
        "precision": "bfloat16",
        "epochs": 5,
        "learning_rate": 0.05,
        "warmup_fraction": 0.2,
        "label_smoothing": 0.0,
        "averaging_decay": 0.0,
    },
    "model": {"dropout": 0.0, "first_layer": "whitened"},
    "augment": {
        "translation_pixels": 1,
        "rotation_degrees": 0,
        "shear_degrees": 0,
        "scale": 0,
        "brightness": 0,
        "contrast": 0,
        "saturation": 0,
    },
}


def dotted(changes: Changes) -> dict[str, Any]:
    """The same values by dotted keys."""
    return {f"{section}.{key}": value for section, settings in changes.items() for key, value in settings.items()}
