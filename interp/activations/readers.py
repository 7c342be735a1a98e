"""Documents from whatever holds text: lists, .txt, .jsonl, .json, .parquet, datasets folders."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from interp.activations.config import TextConfig
from interp.activations.packed import refuse_packed_batches, unpacked_size
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
    show,
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
    except OSError:  # text, which is too long for a name
        there = False
    if not there:
        raise StorageError(
            f"no file or folder {show(str(path), 80)}", fix="text itself goes in as a list of strings: [text]"
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
        text = read_bytes(path, config.max_bytes).decode()
        if sys.getsizeof(text) > config.max_bytes + 100:  # one emoji makes four bytes of every character
            raise Unparsable(too_large(sys.getsizeof(text), config.max_bytes))
        return text.replace("\r\n", "\n").replace("\r", "\n")
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
    _spend(unpacked_size(path, mine), budget, path)
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
    """The texts of a saved dataset. Not by `datasets`, whose features open what a cell names."""
    if not any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
        raise ConfigError(
            f"{path} is no saved datasets folder",
            expected="a folder written by datasets' save_to_disk, or paths of files",
        )
    try:
        from pyarrow import ArrowException
    except ImportError as error:
        raise MissingDependency("this folder needs pyarrow", fix="pip install pyarrow") from error
    try:
        folder = path
        if (path / "dataset_dict.json").exists():
            splits = _listed(_settings(path / "dataset_dict.json"), "splits")
            folder = path / _chosen_split([_plain(name, path) for name in splits], str(path), config)
        files = _listed(_settings(folder / "state.json"), "_data_files")
        names = [each.get("filename") if isinstance(each, dict) else each for each in files]
        paths = [folder / _plain(name, folder) for name in names]
        _spend(sum(map(regular_size, paths)), config.max_bytes, folder)
        column = [text for file in paths for text in _stored(file, config)]
    except (ConfigError, StorageError):
        raise
    except (ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        raise out_of_memory(error, path) or StorageError(
            f"cannot read the dataset {path}", got=reason(error)
        ) from error
    return _strings(enumerate(column), f"{path}, row")


def _listed(settings: Mapping[str, Any], name: str) -> list[Any]:
    found = settings.get(name)
    if not isinstance(found, list):
        raise StorageError(f"a saved dataset lists its {name}", got=type(found).__name__)
    return found


def _stored(path: Path, config: TextConfig) -> Iterator[Any]:
    """The field's values in an Arrow file, whose offsets are checked before they are followed.

    Raises:
        ConfigError: No such column, two of that name, or one of anything but text.
    """
    import pyarrow
    from pyarrow import ipc

    with pyarrow.memory_map(str(path)) as source:
        refuse_packed_batches(source, str(path))
    with pyarrow.memory_map(str(path)) as source, ipc.open_stream(source) as reader:
        _require_field(config.field, reader.schema.names, str(path.parent))
        at = reader.schema.get_field_index(config.field)
        kind = reader.schema.field(at).type if at >= 0 else "two columns of that name"
        if kind not in (pyarrow.string(), pyarrow.large_string()):
            raise ConfigError(f"{path}: {config.field!r} is no text", got=kind, expected="string")
        for batch in reader:
            column = batch.column(at)
            column.validate(full=True)
            yield from column.to_pylist()


def _from_dataset(table: Any, where: str, config: TextConfig) -> Iterable[str]:
    if isinstance(table, Mapping):
        table = table[_chosen_split(list(table), where, config)]
    _require_field(config.field, table.column_names, where)
    return _strings(enumerate(table[config.field]), f"{where}, row")


def _chosen_split(splits: list[str], where: str, config: TextConfig) -> str:
    if config.split is None and len(splits) == 1:
        return splits[0]
    if config.split not in splits:
        raise ConfigError(
            f"{where} has several splits" if config.split is None else f"no split in {where}",
            got=config.split,
            expected=", ".join(splits),
            fix="name one with split=",
        )
    return config.split


def _strings(items: Iterable[tuple[int, Any]], where: str) -> Iterator[str]:
    for number, item in items:
        if not isinstance(item, str):
            raise ConfigError(f"{where} {number} is no text", got=type(item).__name__, expected="a string")
        yield item


def _name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else f"this {type(source).__name__}"
