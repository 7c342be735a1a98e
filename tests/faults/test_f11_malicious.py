"""F11: hostile files are refused in under a second, in little memory, and none of their code runs.

The safetensors attacks are those of the format's own test suite (`safetensors/src/tensor.rs`,
`attacks/`), built here byte by byte. Each file is read in a process of its own, so that its peak
memory is its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def st(header: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> str:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


FOUR = b"\0" * 4
TWO = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":%s}'
SAFETENSORS: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "header larger than the file": st("{}", length=1 << 20),
    "header of 2^63 bytes": st("{}", length=1 << 63),
    "header of 2^64 - 1 bytes": st("{}", length=(1 << 64) - 1),
    "header of 90 MB, all spaces": st(b" " * 90_000_000),
    "header of 24 MB, deep": st(b"[" * 24_000_000),
    "header of 24 MB, one string": st(b'{"a":"' + b"x" * 24_000_000 + b'"}'),
    "header no JSON": st("{'a': 1}"),
    "header not UTF-8": st(b'{"\xff\xfe":' + ENTRY.encode() + b"}", FOUR),
    "header a list": st("[]"),
    "header a number": st("7"),
    "entry no object": st('{"a": 3}'),
    "entry without dtype": st('{"a":{"shape":[1],"data_offsets":[0,4]}}', FOUR),
    "unknown dtype": st(entry(dtype="F31"), FOUR),
    "negative shape": st(entry(shape=[-1]), FOUR),
    "fractional shape": st(entry(shape=[1.5]), FOUR),
    "shape beyond the bytes": st(entry(shape=[1 << 40]), FOUR),
    "shape that overflows": st(entry(shape=[1 << 32, 1 << 32, 4]), FOUR),
    "negative offset": st(entry(offsets=[-4, 0]), FOUR),
    "offsets reversed": st(entry(offsets=[4, 0]), FOUR),
    "offset beyond the file": st(entry(offsets=[0, 1 << 40]), FOUR),
    "offset past 2^64": st(entry(offsets=[0, 1 << 65]), FOUR),
    "overlap": st(TWO % '{"dtype":"F32","shape":[1],"data_offsets":[2,6]}', b"\0" * 6),
    "same bytes twice": st(TWO % ENTRY, FOUR),
    "hole": st(TWO % '{"dtype":"F32","shape":[1],"data_offsets":[8,12]}', b"\0" * 12),
    "bytes after the end (polyglot)": st(entry(), FOUR + b"PK\3\4 payload"),
    "bytes before the start": st(entry(offsets=[4, 8]), b"\0" * 8),
    "one name twice, other bytes": st(
        '{"a":' + ENTRY + ',"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"\0" * 8
    ),
    "one name twice, same bytes": st('{"a":' + ENTRY + ',"a":' + ENTRY + "}", FOUR),
    "metadata twice": st('{"__metadata__":{},"__metadata__":{"a":"b"},"a":' + ENTRY + "}", FOUR),
    "metadata no strings": st('{"__metadata__":{"a":{"b":1}},"a":' + ENTRY + "}", FOUR),
    "a pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93.",
}


def evil_code(canary: Path) -> bytes:
    """A pickle, written by hand, whose loading creates `canary` through os.system."""
    return b"cposix\nsystem\n(S'touch %s'\ntR." % os.fsencode(canary)


def torch_zip(path: Path, pickled: bytes, extra: bytes = b"", compressed: bool = False) -> None:
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        if extra:
            archive.writestr("archive/data/0", extra)


def lying_zip(path: Path, canary: Path) -> None:
    """The directory of the archive claims a member of 64 GB."""
    torch_zip(path, b"\x80\x02}.", extra=b"\0" * 64)
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"PK\1\2")
    raw[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(raw)


BYTEARRAY = b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x70\x85R."  # bytearray(1.9 GB)

ON_THE_STACK = b"\x80\x04\x8c\x08builtins\x8c\x09bytearray\x93J\x00\x00\x00\x70\x85R."  # protocol 4
LEGACY = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
HIDDEN = b"\x80\x02X\x0a\x00\x00\x00ctorch\nint0" + BYTEARRAY[2:]  # text and name read as one: int0cbuiltins


def behind_a_pickle(path: Path) -> None:
    """torch reads the pickle that a file begins with; zip readers the archive that it ends with."""
    path.write_bytes(LEGACY + BYTEARRAY + pickle.dumps([], 2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "a")


def in_capitals(path: Path) -> None:
    """torch finds its members whatever their case."""
    torch_zip(path, BYTEARRAY)
    path.write_bytes(path.read_bytes().replace(b"data.pkl", b"DATA.PKL"))


def two_directories(path: Path) -> None:
    """The end says where one directory is; another lies right before it."""
    torch_zip(path, BYTEARRAY)
    raw = path.read_bytes()
    honest = raw[raw.index(b"PK\1\2") : -22].replace(b"data.pkl", b"data.txt")
    path.write_bytes(raw[:-22] + honest + raw[-22:])


def long_directory(path: Path) -> None:
    """Four hundred thousand members of which none is there."""
    entry = b"PK\1\2" + bytes(24) + (5).to_bytes(2, "little") + bytes(16)
    listed = b"".join(entry + b"%05x" % number for number in range(400_000))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(listed), 4, 0)
    path.write_bytes(b"PK\3\4" + listed + end)


TORCH: dict[str, Callable[[Path, Path], object]] = {
    "bytearray of 1.9 GB, behind a pickle": lambda path, canary: behind_a_pickle(path),
    "bytearray of 1.9 GB, in capitals": lambda path, canary: in_capitals(path),
    "bytearray of 1.9 GB, in a second directory": lambda path, canary: two_directories(path),
    "bytearray of 1.9 GB, its name in a text": lambda path, canary: torch_zip(path, HIDDEN),
    "bytearray of 1.9 GB, named on the stack": lambda path, canary: torch_zip(path, ON_THE_STACK),
    "a long directory": lambda path, canary: long_directory(path),
    "evil pickle, zip": lambda path, canary: torch_zip(path, b"\x80\x02" + evil_code(canary)),
    "evil pickle, bare": lambda path, canary: path.write_bytes(evil_code(canary)),
    "evil pickle, protocol 2": lambda path, canary: path.write_bytes(b"\x80\x02" + evil_code(canary)),
    "zip bomb": lambda path, canary: torch_zip(
        path, b"\x80\x02}.", extra=b"\0" * 300_000_000, compressed=True
    ),
    "zip with a lying directory": lying_zip,
    "bytearray of 1.9 GB, zip": lambda path, canary: torch_zip(path, BYTEARRAY),
    "bytearray of 1.9 GB, bare": lambda path, canary: path.write_bytes(BYTEARRAY),
    "empty": lambda path, canary: path.write_bytes(b""),
    "no pickle": lambda path, canary: path.write_bytes(b"not a checkpoint" * 9),
    "zip without pickle": lambda path, canary: zipfile.ZipFile(path, "w").close(),
    "half a zip": lambda path, canary: (
        torch_zip(path, b"\x80\x02}.", extra=b"\0" * 999),
        path.write_bytes(path.read_bytes()[:700]),
    ),
    "deeply nested": lambda path, canary: path.write_bytes(b"\x80\x02" + b"(" * 100_000 + b"."),
}

CALLS = 1_000_000  # of functions, in Python and C: less than a second's worth on a slow machine

READ = """
import json, os, resource, sys
import torch, safetensors.torch
from interp.core import store
from interp.core.errors import StorageError
from tests.support.work import counted_calls
from tests.support.children import fork

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

store.load_tensors(sys.argv[1])  # warm: lazy imports are not the file's doing
store.load_torch(sys.argv[2])
for line in sys.stdin:
    kind, path = line.rstrip("\\n").split("\\t")
    child = fork()
    if child == 0:
        before, outcome = peak(), "accepted"
        try:
            with counted_calls() as calls:
                (store.load_tensors if kind == "st" else store.load_torch)(path)
        except StorageError as error:
            outcome = "refused" if path in str(error) else f"unnamed: {error}"
        except BaseException as error:
            outcome = f"raw {type(error).__name__}: {error}"
        report = {"path": path, "outcome": outcome, "mb": peak() - before,
                  "calls": calls.n}
        print(json.dumps(report), flush=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        print(json.dumps({"path": path, "outcome": f"died {status}"}), flush=True)
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Every hostile file read once, in a process of its own."""
    import safetensors.torch
    import torch

    folder = tmp_path_factory.mktemp("hostile")
    canary = folder / "canary"
    safetensors.torch.save_file({"w": torch.ones(3)}, folder / "good.safetensors")
    torch.save({"w": torch.ones(3)}, folder / "good.pt")
    names: dict[str, str] = {}
    lines: list[str] = []
    for i, (name, data) in enumerate(SAFETENSORS.items()):
        path = folder / f"{i}.safetensors"
        path.write_bytes(data)
        names[str(path)] = name
        lines.append(f"st\t{path}")
    for i, (name, build) in enumerate(TORCH.items()):
        path = folder / f"{i}.pt"
        build(path, canary)
        names[str(path)] = f"torch: {name}"
        lines.append(f"pt\t{path}")
    good = [str(folder / "good.safetensors"), str(folder / "good.pt")]
    command = [sys.executable, "-c", READ, *good]
    run = subprocess.run(
        command,
        input="\n".join(lines) + "\n",
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert run.returncode == 0, run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    return {names[r["path"]]: r for r in found} | {"canary": {"exists": canary.exists()}}


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", [*SAFETENSORS, *(f"torch: {name}" for name in TORCH)])
def test_refused_with_little_work_and_memory(reports: dict[str, dict[str, object]], name: str) -> None:
    report = reports[name]
    assert report["outcome"] == "refused", report
    print(name, report)
    assert report["calls"] < CALLS and report["mb"] < 100, report


def test_no_code_ran(reports: dict[str, dict[str, object]]) -> None:
    assert reports["canary"] == {"exists": False}


def test_the_evil_pickle_is_one(tmp_path: Path) -> None:
    """The canary would sing: loaded in full, in a throw-away process, the same bytes do run."""
    canary = tmp_path / "canary"
    path = tmp_path / "evil.pt"
    path.write_bytes(evil_code(canary))
    full = f"import _pickle; _pickle.load(open({str(path)!r}, 'rb'))"
    subprocess.run([sys.executable, "-c", full], check=True)
    assert canary.exists()


def test_honest_foreign_files_are_read(tmp_path: Path) -> None:
    import torch

    from interp.core import store

    content = {"w": torch.arange(7.0), "b": torch.ones(2).bfloat16(), "step": 5, "names": ["a"]}
    for legacy in (False, True):
        torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
        read = store.load_torch(tmp_path / "c.pt")
        assert torch.equal(read["w"], content["w"]) and torch.equal(read["b"], content["b"])
        assert (read["step"], read["names"]) == (5, ["a"])


@pytest.mark.parametrize("reader", ["load_tensors", "load_torch"])
def test_absent_files_and_folders_are_named(tmp_path: Path, reader: str) -> None:
    from interp.core import store
    from interp.core.errors import StorageError

    for path in (tmp_path / "absent.bin", tmp_path):
        with pytest.raises(StorageError) as caught:
            getattr(store, reader)(path)
        assert str(path) in str(caught.value)


def test_a_crafted_manifest_is_refused(tmp_path: Path) -> None:
    """A hostile writer can compute the digest; what the manifest says is still checked."""
    from interp.core import store
    from interp.core.disk.artefact import render_manifest
    from interp.core.errors import StorageError

    (tmp_path / "secret").write_text("s")
    folder = tmp_path / "a"
    good = {"size": 1, "sha256": hashlib.sha256(b"s").hexdigest()}  # of the secret itself
    bodies: list[dict[str, object]] = [
        {},
        {"schema": "t"},
        {"schema": "t", "files": 3},
        {"schema": "t", "files": ["x"]},
        {"schema": 7, "files": {}},
        {"schema": "t", "files": {"x": {}}},
        {"schema": "t", "files": {"x": {"size": "a", "sha256": "b"}}},
        {"schema": "t", "files": {"../secret": good}},
        {"schema": "t", "files": {"/etc/passwd": good}},
        {"schema": "t", "files": {"link": good}},
        {"schema": "t", "files": {"pipe": good}},
        {"schema": "t", "files": {"folder": good}},
    ]
    folder.mkdir()
    (folder / "x").write_text("s")
    (folder / "manifest.json").write_bytes(render_manifest({"schema": "t", "files": {"x": good}}))
    assert store.open_artefact(folder).bytes("x") == b"s"  # well made, it is read
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    for body in bodies:
        (folder / "manifest.json").write_bytes(render_manifest(body))
        with pytest.raises(StorageError):
            store.open_artefact(folder)


def test_a_name_that_only_running_would_tell_is_refused_before_torch(tmp_path: Path) -> None:
    import torch

    from interp.core import store
    from interp.core.errors import CorruptArtefact

    torch_zip(tmp_path / "m.pt", ON_THE_STACK)
    with pytest.raises(CorruptArtefact, match="what only running it would tell"):
        store.check_torch(tmp_path / "m.pt")
    torch.save({"w": torch.ones(3)}, tmp_path / "honest.pt")
    store.check_torch(tmp_path / "honest.pt")
