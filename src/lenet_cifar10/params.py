"""params.yaml, read and checked as a whole; each function of the package takes only its own section."""

from difflib import get_close_matches
from pathlib import Path
from reprlib import repr as short_repr
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from lenet_cifar10 import yaml_text
from lenet_cifar10.errors import UserError


def _whole(low: int, high: int) -> Any:
    return Field(ge=low, le=high, description=f"a whole number from {low} to {high}")


def _number(low: float, high: float) -> Any:
    return Field(ge=low, le=high, description=f"a number from {low:g} to {high:g}")


def _number_above(low: float, high: float) -> Any:
    return Field(gt=low, le=high, description=f"a number above {low:g}, up to {high:g}")


def _number_below(low: float, high: float) -> Any:
    return Field(ge=low, lt=high, description=f"a number from {low:g}, below {high:g}")


def _word(*words: str) -> Any:
    return Field(description="one of " + ", ".join(words))


def _text(pattern: str, description: str) -> Any:
    return Field(pattern=pattern, description=description)


class Section(BaseModel):
    """A frozen part of the parameters: exact types, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class DataSection(Section):
    """Where the archive comes from and how its training images are split."""

    urls: list[Annotated[str, Field(pattern=r"\S")]] = Field(
        min_length=1, description="a list of one or more URLs or paths"
    )
    sha256: str = _text(r"^[0-9a-f]{64}$", "64 lower-case hexadecimal digits, in quotes")
    validation_size: int = _whole(0, 10_000_000)
    split_seed: int = _whole(0, 2**32 - 1)


class AugmentSection(Section):
    """Strengths of the random changes to a training image; zero switches one off."""

    flip_probability: float = _number(0, 1)
    translation_pixels: int = _whole(0, 16)
    rotation_degrees: float = _number(0, 45)
    shear_degrees: float = _number(0, 45)
    scale: float = _number(0, 0.6)
    brightness: float = _number(0, 1)
    contrast: float = _number(0, 1)
    saturation: float = _number(0, 1)
    border: Literal["zero", "reflect"] = _word("zero", "reflect")


class ModelSection(Section):
    """What is free in the network: its layers are fixed."""

    dropout: float = _number_below(0, 1)
    first_layer: Literal["learned", "whitened"] = _word("learned", "whitened")


class TrainSection(Section):
    """How the network is trained."""

    launcher: str = _text(r"\S", 'the command before the script, such as "python"')
    threads: int = _whole(1, 1024)
    shards: int = _whole(1, 1024)
    precision: Literal["float32", "bfloat16"] = _word("float32", "bfloat16")
    epochs: int = _whole(1, 10_000)
    batch_size: int = _whole(1, 10_000_000)
    optimizer: Literal["sgd", "adam", "adamw"] = _word("sgd", "adam", "adamw")
    learning_rate: float = _number_above(0, 100)
    momentum: float = _number_below(0, 1)
    weight_decay: float = _number(0, 10)
    schedule: Literal["constant", "linear", "cosine"] = _word("constant", "linear", "cosine")
    warmup_fraction: float = _number_below(0, 1)
    label_smoothing: float = _number_below(0, 1)
    averaging_decay: float = _number_below(0, 1)

    @field_validator("momentum")
    @classmethod
    def _momentum_is_for_sgd(cls, momentum: float, info: ValidationInfo) -> float:
        optimizer = info.data.get("optimizer")
        if momentum and optimizer in ("adam", "adamw"):
            raise ValueError(f"has no effect with train.optimizer {optimizer}: set it to 0, or use sgd")
        return momentum


class EvaluateSection(Section):
    """How the test figures are made."""

    test_time_flips: bool = Field(description="true or false")


class FiguresSection(Section):
    """How the pictures look."""

    dpi: int = _whole(50, 300)
    colormap: Literal["viridis", "cividis", "Blues", "Greys"] = _word("viridis", "cividis", "Blues", "Greys")


class Params(Section):
    """All of params.yaml."""

    seed: int = _whole(0, 2**32 - 1)
    device: str = _text(r"^(auto|cpu|cuda(:(0|[1-9][0-9]?))?|mps)$", "one of auto, cpu, cuda, cuda:N, mps")
    data: DataSection
    augment: AugmentSection
    model: ModelSection
    train: TrainSection
    evaluate: EvaluateSection
    figures: FiguresSection

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a whole parameters file.

        Raises:
            UserError: the file is missing or is no YAML, or one line for each mistake in it.
        """
        try:
            values = yaml_text.parse(path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run this in the project's folder") from None
        except yaml_text.NotYamlError as error:
            raise UserError(f"{path}: is not valid YAML: {error}") from None
        return cls.check(values, source=str(path))

    @classmethod
    def check(cls, values: object, source: str = "params.yaml") -> Self:
        """Turn plain values into checked parameters.

        Raises:
            UserError: one line for each mistake.
        """
        if not isinstance(values, dict):
            raise UserError(f"{source}: found {_shown(values)}, expected the sections {', '.join(cls.model_fields)}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"{source}: {_explain(mistake)}" for mistake in error.errors(include_url=False)]
            raise UserError("\n".join(lines)) from None

    def of_training(self) -> dict[str, Any]:
        """The values that decide what training gives; the device is known otherwise, by what it is."""
        return self.model_dump(include={"seed", "augment", "model", "train"}, exclude={"train": {"launcher"}})


def _explain(mistake: Any) -> str:
    """One line for one mistake that pydantic found: key, value, what is allowed."""
    location = mistake["loc"]
    key = ".".join(_printable(str(part)) for part in location)
    section, allowed = _look_up(location)
    if mistake["type"] in ("extra_forbidden", "invalid_key"):  # such as the number 1 for a key
        siblings = list(section.model_fields)
        near = get_close_matches(str(location[-1]), siblings, n=1, cutoff=0.7)
        advice = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(siblings)}"
        return f"{key}: unknown key; {advice}"
    if mistake["type"] == "missing":
        return f"{key}: is missing; expected {allowed}"
    if mistake["type"] == "value_error":
        return f"{key}: {_shown(mistake['input'])} {mistake['ctx']['error']}"
    return f"{key}: found {_shown(mistake['input'])}, expected {allowed}"


def _look_up(location: tuple[str | int, ...]) -> tuple[type[BaseModel], str | None]:
    """The innermost section on the way to `location`, and what the field there may hold, in words."""
    section: type[BaseModel] = Params
    for part in location:
        field = section.model_fields.get(str(part))
        if field is None:
            return section, None
        if field.description:  # a plain value, or a list and its items
            return section, field.description
        section = cast(type[BaseModel], field.annotation)
    return section, f"a section with the keys {', '.join(section.model_fields)}"


def _shown(value: object) -> str:
    """A value as YAML has it, cut to a line's length."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    text = f'"{_printable(value)}"' if isinstance(value, str) else short_repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _printable(text: str) -> str:
    """The text with line ends and the like written as escapes."""
    return repr(text)[1:-1]
