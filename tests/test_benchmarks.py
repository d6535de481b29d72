"""The classic recipe, which the benchmarks and the Makefile share."""

from benchmarks.recipes import make_params, read_classic

from lenet_cifar10.common.params import Params, flatten


def test_the_classic_recipe_names_every_setting_of_the_training(params: Params) -> None:
    """So that a change of the defaults leaves it as it is."""
    classic = read_classic()
    settings = {key for key in flatten(params) if key.startswith(("augment.", "model.", "train."))}
    assert settings - classic.keys() == {"train.threads", "train.micro_batches"}
    assert make_params(classic).train.optimizer == "adam"
