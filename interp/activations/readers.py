"""Documents from whatever holds text: lists, .txt, .jsonl, .json, .parquet, datasets folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from interp.activations.config import TextConfig
from interp.core.errors import BadName, ConfigError, MissingDependency, StorageError, out_of_memory
from interp.core.foreign import (
    MIB,
    Unparsable,
    one_line,
    parse_json,
    read_bytes,
    read_json,
    reason,
    regular_size,
    too_large,
)
from interp.core.names import did_you_mean, slug

SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")
_PACKED = 20  # text packs to a fifth; what unpacks to more than this times its size is a bomb


def read_texts(source: Any, config: TextConfig | None = None) -> list[str]:
    """Documents in the order of the source; documents of whitespace alone are left out.

    Args:
        source: A path (.txt, .jsonl, .json with a list, .parquet, or a folder written by
            `datasets.save_to_disk`), several `Path`s, a list of documents, or a `datasets` table.
        config: `field`, `split` and `separator` are used.

    Raises:
        ConfigError: Nothing usable in it: no text, no such field or split (with the nearest).
        StorageError: A file that is absent, unreadable or broken, with the line at fault.
    """
    config = config or TextConfig()
    texts = [text for text in _documents(source, config) if text.strip()]
    if not texts:
        raise ConfigError(f"no text in {_name(source)}", expected="at least one document")
    return texts


def _documents(source: Any, config: TextConfig) -> Iterable[str]:
    if isinstance(source, str | Path):
        return _from_path(Path(source), config)
    if hasattr(source, "column_names"):
        return _from_dataset(source, "the dataset", config)
    if isinstance(source, Mapping | set | frozenset) or not isinstance(source, Iterable):
        # A dict's keys are no documents, and the rows of a set have no order to come back to.
        raise ConfigError(
            "cannot read text from this", got=type(source).__name__, expected="a path or documents"
        )
    items = list(source)
    if items and all(isinstance(item, Path) for item in items):
        return [text for path in items for text in _from_path(path, config)]
    return _strings(enumerate(items), "document")


def _from_path(path: Path, config: TextConfig) -> Iterable[str]:
    try:
        there = path.exists()
    except OSError as error:  # a name that is too long
        raise StorageError(f"no file or folder {str(path)[:200]}", got=reason(error)) from error
    if not there:
        raise StorageError(
            f"no file or folder {str(path)[:200]}", fix="text itself goes in as a list of strings"
        )
    if path.is_dir():
        return _from_folder(path, config)
    if path.suffix == ".txt":
        text = _read(path, config)
        return text.split(config.separator) if config.separator else [text]
    if path.suffix == ".jsonl":
        return _from_lines(path, config)
    if path.suffix == ".json":
        return _from_json(path, config)
    if path.suffix == ".parquet":
        return _from_parquet(path, config)
    raise ConfigError(f"cannot read text from {path}", got=path.suffix or None, expected=", ".join(SUFFIXES))


def _read(path: Path, config: TextConfig) -> str:
    try:
        return read_bytes(path, config.max_bytes).decode().replace("\r\n", "\n").replace("\r", "\n")
    except Unparsable as error:
        raise StorageError(f"{path} is too large", got=error, fix="raise max_bytes") from error
    except UnicodeDecodeError as error:
        raise StorageError(
            f"{path} is not UTF-8", got=f"byte {error.start}", fix="convert it to UTF-8"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}", got=error.strerror) from error


def _from_lines(path: Path, config: TextConfig) -> Iterator[str]:
    for number, line in enumerate(_read(path, config).split("\n"), 1):
        if line.strip():
            value = _parse(line, path, f"line {number}")
            yield _text_of(value, f"{path}, line {number}", config)


def _from_json(path: Path, config: TextConfig) -> Iterator[str]:
    value = _parse(_read(path, config), path, "the file")
    if not isinstance(value, list):
        raise ConfigError(
            f"{path} holds no list", got=type(value).__name__, expected="a list of texts or objects"
        )
    for number, item in enumerate(value):
        yield _text_of(item, f"{path}, entry {number}", config)


def _parse(text: str, path: Path, where: str) -> Any:
    try:
        return parse_json(text, nonfinite=True)  # what is not the text is not ours to judge
    except ValueError as error:
        raise StorageError(f"{path}: {where} is no JSON", got=one_line(error)) from error


def _text_of(value: Any, where: str, config: TextConfig) -> str:
    if isinstance(value, Mapping):
        _require_field(config.field, value, where)
        value = value[config.field]
    if not isinstance(value, str):
        raise ConfigError(f"{where} is no text", got=type(value).__name__, expected="a string")
    return value


def _require_field(field: str, names: Iterable[str], where: str) -> None:
    names = list(names)
    if field not in names:
        raise ConfigError(
            f"no field {field!r} in {where}",
            got=field,
            expected=", ".join(map(str, names[:10])) or "a field",
            fix=did_you_mean(field, map(str, names)) or "name it with field=",
        )


def _from_parquet(path: Path, config: TextConfig) -> Iterable[str]:
    try:
        from pyarrow import ArrowException, parquet
        from pyarrow import types as arrow_types
    except ImportError as error:
        raise MissingDependency("parquet needs pyarrow", fix="pip install pyarrow") from error
    try:
        regular_size(path)
        schema = parquet.read_schema(path)
        _require_field(config.field, schema.names, str(path))
        if schema.names.count(config.field) > 1:
            raise ConfigError(f"{path}: two columns of one name", got=config.field, fix="rename one")
        held = schema.field(config.field).type
        kind = str(held.value_type if arrow_types.is_dictionary(held) else held)
        if kind not in ("string", "large_string", "string_view"):
            raise ConfigError(f"{path}: {config.field!r} is no text", got=kind, expected="string")
        with parquet.ParquetFile(path, read_dictionary=[config.field]) as file:
            column = list(_values(file, path, config))
    except (ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        if isinstance(error, ConfigError | StorageError):
            raise
        raise out_of_memory(error, path) or StorageError(
            f"cannot read {path} as parquet", got=reason(error)
        ) from error
    return _strings(enumerate(column), f"{path}, row")


def _values(file: Any, path: Path, config: TextConfig) -> Iterator[Any]:
    """The field's values. Repeated ones stay packed until what they unpack to has been counted."""
    from pyarrow import compute as arrow_compute

    compute: Any = arrow_compute  # its functions are made at import

    budget = _budget(path.stat().st_size, config)
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    mine = [c for c in columns if c.path_in_schema.partition(".")[0] == config.field]
    _spend(sum(c.total_uncompressed_size for c in mine), budget, path)
    spent = 0
    for batch in file.iter_batches(batch_size=4096, columns=[config.field]):
        values = batch.column(0)
        if hasattr(values, "dictionary"):
            lengths = compute.binary_length(values.dictionary).take(values.indices)
            spent += 8 * len(values) + (compute.sum(lengths).as_py() or 0)
            _spend(spent, budget, path)
        yield from values.to_pylist()


def _budget(size: int, config: TextConfig) -> int:
    return min(config.max_bytes, _PACKED * size + 64 * MIB)


def _spend(size: int, budget: int, path: Path) -> None:
    """Say what a packed file would unpack to before it does.

    Raises:
        StorageError: More than the budget.
    """
    if size > budget:
        raise StorageError(
            f"{path} unpacks to too much",
            got=too_large(size, budget),
            fix="save it unpacked, as .jsonl" if size < 2 * 2**30 else "split it, or max_bytes",
        )


def _check_folder(path: Path, config: TextConfig) -> None:
    """The names in a saved dataset's own files lead to files inside it.

    Raises:
        StorageError: A name that is no plain file name, settings that are no JSON, too large.
    """
    inner = [path]
    if (path / "dataset_dict.json").exists():
        splits = _settings(path / "dataset_dict.json").get("splits")
        inner = [path / _plain(name, path) for name in splits or []]
    for folder in inner:
        files = _settings(folder / "state.json").get("_data_files") or []
        names = [each.get("filename") if isinstance(each, dict) else each for each in files]
        size = sum((folder / _plain(name, folder)).stat().st_size for name in names)
        _spend(size, config.max_bytes, folder)


def _settings(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise StorageError(f"{path} holds no settings", got=type(found).__name__)
    return found


def _plain(name: object, folder: Path) -> str:
    try:
        return slug(name if isinstance(name, str) else "")
    except BadName as error:
        raise StorageError(f"{folder} names a file {name!r}", got=error.what) from error


def _from_folder(path: Path, config: TextConfig) -> Iterable[str]:
    if not any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
        raise ConfigError(
            f"{path} is no saved datasets folder",
            expected="a folder written by datasets' save_to_disk, or paths of files",
        )
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency("this folder needs datasets", fix="pip install datasets") from error
    try:
        _check_folder(path, config)
        found = datasets.load_from_disk(str(path))
        return list(_from_dataset(found, str(path), config, path))
    except (ConfigError, StorageError):
        raise
    except Exception as error:  # datasets lets every layer below it raise
        raise out_of_memory(error, path) or StorageError(
            f"cannot read the dataset {path}", got=reason(error)
        ) from error


def _from_dataset(table: Any, where: str, config: TextConfig, path: Path | None = None) -> Iterable[str]:
    if isinstance(table, Mapping):
        splits = list(table)
        if config.split is None and len(splits) == 1:
            table = table[splits[0]]
        elif config.split in splits:
            table = table[config.split]
        else:
            raise ConfigError(
                f"{where} has several splits" if config.split is None else f"no split in {where}",
                got=config.split,
                expected=", ".join(splits),
                fix="name one with split=",
            )
    _require_field(config.field, table.column_names, where)
    if path is not None:
        _spend(table.data.nbytes, config.max_bytes, path)
    return _strings(enumerate(table[config.field]), f"{where}, row")


def _strings(items: Iterable[tuple[int, Any]], where: str) -> Iterator[str]:
    for number, item in items:
        if not isinstance(item, str):
            raise ConfigError(f"{where} {number} is no text", got=type(item).__name__, expected="a string")
        yield item


def _name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else f"this {type(source).__name__}"
