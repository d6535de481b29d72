"""params.yaml, read and validated as a whole; each function of the package takes only its own section."""

from difflib import get_close_matches
from pathlib import Path
from reprlib import repr as short_repr
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from lenet_cifar10.common.stage import UserError
from lenet_cifar10.common.yaml import parse_yaml

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
PaddingMode = Literal["zeros", "symmetric"]


class Section(BaseModel):
    """A frozen part of the parameters: exact types, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class DataSection(Section):
    """Where the archive comes from and how its training images are split."""

    urls: list[Annotated[str, Field(pattern=r"\S")]] = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    validation_size: int = Field(ge=0, le=10_000_000)
    split_seed: Seed


class AugmentSection(Section):
    """Strengths of the random changes to a training image; zero switches one off."""

    flip_probability: Fraction
    translation_pixels: int = Field(ge=0, le=16)
    rotation_degrees: float = Field(ge=0, le=45)
    shear_degrees: float = Field(ge=0, le=45)
    scale: float = Field(ge=0, le=0.6)
    brightness: Fraction
    contrast: Fraction
    saturation: Fraction
    padding_mode: PaddingMode


class ModelSection(Section):
    """What is free in the network: its layers are fixed."""

    dropout: FractionBelowOne


class TrainSection(Section):
    """How the network is trained."""

    threads: int = Field(ge=1, le=1024)
    micro_batches: int = Field(ge=1, le=1024)
    cuda_graph: bool
    precision: Literal["float32", "tf32", "bfloat16"]
    epochs: int = Field(ge=1, le=10_000)
    batch_size: int = Field(ge=1, le=10_000_000)
    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: float = Field(gt=0, le=100)
    momentum: FractionBelowOne
    weight_decay: float = Field(ge=0, le=10)
    schedule: Literal["constant", "linear", "cosine"]
    warmup_fraction: FractionBelowOne
    label_smoothing: FractionBelowOne
    ema_decay: FractionBelowOne

    @field_validator("momentum")
    @classmethod
    def _momentum_is_for_sgd(cls, momentum: float, info: ValidationInfo) -> float:
        optimizer = info.data.get("optimizer")
        if momentum and optimizer in ("adam", "adamw"):
            raise ValueError(f"has no effect with train.optimizer {optimizer}; set it to 0, or use sgd")
        return momentum


class EvaluateSection(Section):
    """How the test figures are made."""

    test_time_flips: bool


class FiguresSection(Section):
    """How the pictures look."""

    dpi: int = Field(ge=50, le=300)
    colormap: Literal["viridis", "cividis", "Blues", "Greys"]


class Params(Section):
    """All of params.yaml."""

    seed: Seed
    device: str = Field(pattern=r"^(auto|cpu|cuda(:(0|[1-9][0-9]?))?|mps)$")
    data: DataSection
    augment: AugmentSection
    model: ModelSection
    train: TrainSection
    evaluate: EvaluateSection
    figures: FiguresSection


def load_params(path: Path) -> Params:
    """Read and validate a whole parameters file.

    Raises:
        UserError: the file is missing or is not YAML, or one line for each mistake in it.
    """
    try:
        values = parse_yaml(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run this in the project's folder") from None
    return check_params(values, str(path))


def check_params(values: object, name: str = "params.yaml") -> Params:
    """Turn plain values into validated parameters; messages call them `name`.

    Raises:
        UserError: one line for each mistake.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(f"{name}: {_explain(mistake)}" for mistake in error.errors())) from None


def flatten(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """The values by their dotted keys, such as train.epochs."""
    values: dict[str, Any] = {}
    for name, value in section:
        values |= flatten(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {prefix + name: value}
    return values


def _explain(mistake: Any) -> str:
    """One line for one mistake that pydantic found: key, value, what is expected."""
    *parents, name = mistake["loc"] or ("",)
    key = ".".join(map(str, mistake["loc"]))
    found = f"found {_show(mistake['input'])}"
    match mistake["type"]:
        case "extra_forbidden":
            section: Any = Params
            for parent in parents:
                section = section.model_fields[parent].annotation
            near = get_close_matches(str(name), section.model_fields, n=1, cutoff=0.7)
            advice = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(section.model_fields)}"
            return f"{key}: unknown key; {advice}"
        case "missing":
            return f"{key}: is missing"
        case "value_error":
            return f"{key}: {found}, which {mistake['ctx']['error']}"
        case "model_type":
            return f"{key or 'its content'}: {found}, expected a section with keys"
        case _:
            return f"{key}: {found}; {mistake['msg'][0].lower()}{mistake['msg'][1:]}"


def _show(value: object) -> str:
    """A value as YAML has it, cut to a line's length."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return short_repr(value)
