"""Files that appear whole or not at all, and always with the same bytes for the same values."""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@contextmanager
def replacing(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Temporary paths beside `paths` that take their places together, safely on disk, once the block ends well.

    They exist at once, so that a folder that cannot be written is found before the work is done. If the block fails,
    the temporary files go and what was at `paths` stays as it was. Their names are always the same, so what a killed
    process leaves is overwritten by the next one.

    Raises:
        OSError: named after the path that could not be written.
    """
    temporaries = tuple(temporary_path(path) for path in paths)
    finals = {str(temporary): str(path) for temporary, path in zip(temporaries, paths, strict=True)}
    try:
        for path, temporary in zip(paths, temporaries, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)  # it may be a link or a pipe
            temporary.write_bytes(b"")
        yield temporaries
        for temporary in temporaries:
            _flush_to_disk(temporary)
        for path, temporary in zip(paths, temporaries, strict=True):
            temporary.replace(path)
            _flush_to_disk(path.parent)
    except OSError as error:
        # A full disk does not say for which file.
        error.filename = finals.get(str(error.filename), error.filename or ", ".join(map(str, paths)))
        raise
    finally:
        for temporary in temporaries:
            with suppress(OSError):
                temporary.unlink()


def temporary_path(path: Path) -> Path:
    """Where `replacing` has a file written before it takes the place of `path`."""
    return path.with_name(f".{path.name}.part")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as indented JSON in the order given. NaN and infinity, which JSON has not, become null."""
    text = json.dumps(_without_nan(values), indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_csv(path: Path, rows: "Sequence[Mapping[str, object]] | Sequence[DataclassInstance]") -> None:
    """Write one or more rows with a header line; floats in the shortest form that reads back as the same number."""
    tables = [row if isinstance(row, Mapping) else asdict(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(tables[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(tables)
    path.write_text(text.getvalue(), encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
