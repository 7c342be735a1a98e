"""The one writer: what goes in comes out, what exists is safe, what was killed is cleaned up."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from interp.core import store
from interp.core.disk import calls as _disk
from interp.core.disk.tensors import DTYPES, encode_tensors
from interp.core.errors import BadName, CorruptArtefact, StorageError
from tests.support.children import HANG, fork

SMALL = {"x.json": {"a": 1}, "w.safetensors": {"w": torch.arange(7.0)}}


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


# ------------------------------------------------------------------ tensors


def awkward_tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(77, dtype=torch.float32).reshape(7, 11)
    return {
        "plain": base,
        "tied": base,
        "transposed": base.T,
        "strided": base[::2, 1::3],
        "one number of a row": torch.zeros(1, 1, 3, dtype=torch.float64)[:, :1, 0],
        "expanded": torch.ones(1, 5).expand(3, 5),
        "empty": torch.zeros(0, 13),
        "scalar": torch.tensor(3.5),
        "bf16": base.bfloat16(),
        "half": base.half(),
        "negative view": torch.complex(base, base + 1).conj().imag,
        "conjugate": torch.complex(base, base + 1).conj(),
        "flags": base > 5,
        "parameter": torch.nn.Parameter(base + 0.25),
        'é日 "\\\n': torch.tensor([1, -2, 3]),
    }


def test_awkward_tensors_come_back_bit_equal(tmp_path: Path) -> None:
    tensors = awkward_tensors()
    target = store.commit(tmp_path / "a", {"w.safetensors": tensors}, schema="t")
    ours = store.open_artefact(target).tensors("w.safetensors")
    theirs = safetensors.torch.load_file(target / "w.safetensors")
    for read in (ours, theirs, store.load_tensors(target / "w.safetensors")):
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape
            assert torch.equal(read[name], tensor), name


def test_bytes_equal_those_of_the_library() -> None:
    tensors = {
        f"{kind}{i}": torch.full((i, 3), 2).to(dtype) for i in range(3) for dtype, kind in DTYPES.items()
    }
    for sample in (tensors, {}, {"a": torch.zeros(())}):
        size, chunks = encode_tensors("x", sample)
        data = b"".join(chunks)
        assert data == safetensors.torch.save(sample, {"format": "pt"})
        assert len(data) == size


def test_a_tensor_needs_a_name() -> None:
    with pytest.raises(StorageError, match="entry 3 "):
        encode_tensors("w.safetensors", {3: torch.zeros(2)})


def test_every_dtype_of_the_library_that_torch_trains_in_is_known() -> None:
    from safetensors.torch import _TYPES

    ours = {kind: dtype for dtype, kind in DTYPES.items()}
    assert ours.items() <= _TYPES.items()
    assert _TYPES.keys() - ours.keys() <= {"F8_E4M3FNUZ", "F8_E5M2FNUZ"}


def test_tensors_larger_than_one_write_are_whole(tmp_path: Path) -> None:
    big = torch.randn(1 << 22)  # 16 MB, two chunks
    target = store.commit(tmp_path / "a", {"w.safetensors": {"w": big}}, schema="t")
    assert torch.equal(store.open_artefact(target).tensors("w.safetensors")["w"], big)


@pytest.mark.parametrize(
    "tensors",
    [
        {"w": torch.zeros(2, device="meta")},
        {"w": torch.eye(3).to_sparse()},
        {"w": torch.zeros(2, dtype=torch.complex128)},
        {"w": [1.0, 2.0]},
        {"__metadata__": torch.zeros(2)},
        {"\ud800": torch.zeros(2)},
    ],
    ids=["meta", "sparse", "complex128", "list", "reserved", "surrogate"],
)
def test_what_the_format_cannot_hold_is_refused_before_writing(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(StorageError, match=r"w\.safetensors"):
        store.commit(tmp_path / "a", {"x.json": {}, "w.safetensors": tensors}, schema="t")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ folders


def test_every_payload_comes_back(tmp_path: Path) -> None:
    files = {
        "j.json": {"k": [1, 2.5, None, True, "é\ud800"]},
        "l.json": [1, {"a": "b"}],
        "t.txt": "zwölf\n",
        "b.bin": b"\x00\xff" * 9,
        "e.txt": "",
    }
    target = store.commit(tmp_path / "deep" / "er", files, schema="kind", metadata={"n": 5})
    found = store.open_artefact(target, schema="kind")
    assert found.json("j.json") == files["j.json"]
    assert found.json("l.json") == files["l.json"]
    assert found.bytes("t.txt").decode() == "zwölf\n"
    assert found.bytes("b.bin") == files["b.bin"]
    assert found.bytes("e.txt") == b""
    assert found.metadata == {"n": 5} and not found.foreign
    assert found.path("b.bin").read_bytes() == files["b.bin"]
    assert sorted(found.names()) == sorted(files)
    assert leftovers(tmp_path / "deep") == []


def test_the_manifest_is_readable_and_says_who_wrote_it(tmp_path: Path) -> None:
    target = store.commit(tmp_path / "a", SMALL, schema="kind")
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["schema"] == "kind"
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["files"]["x.json"]["size"] == (target / "x.json").stat().st_size


@pytest.mark.parametrize("value", [{"x": float("nan")}, {"x": object()}, {"x": torch.zeros(2)}])
def test_values_that_are_no_json_are_refused(tmp_path: Path, value: dict[str, object]) -> None:
    with pytest.raises(StorageError, match=r"a\.json"):
        store.commit(tmp_path / "a", {"a.json": value}, schema="t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["manifest.json", "../x", "a/b", "", ".hidden", "/abs", "nul"])
def test_file_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadName):
        store.commit(tmp_path / "a", {name: b""}, schema="t")
    assert list(tmp_path.iterdir()) == []


def test_another_schema_is_refused_with_both_names(tmp_path: Path) -> None:
    store.commit(tmp_path / "a", SMALL, schema="lens")
    with pytest.raises(StorageError) as caught:
        store.open_artefact(tmp_path / "a", schema="dictionary")
    assert (caught.value.got, caught.value.expected) == ("lens", "dictionary")


def test_an_unknown_file_suggests_the_nearest(tmp_path: Path) -> None:
    found = store.open_artefact(store.commit(tmp_path / "a", SMALL, schema="t"))
    with pytest.raises(StorageError, match=r"did you mean 'x\.json'"):
        found.json("y.json")


def test_foreign_folders_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text('{"d": 3}')
    safetensors.torch.save_file({"w": torch.ones(3)}, tmp_path / "w.safetensors")
    with pytest.raises(StorageError, match="manifest"):
        store.open_artefact(tmp_path)
    found = store.open_artefact(tmp_path, foreign_ok=True)
    assert found.foreign and found.manifest["provenance"] == "unknown"
    assert found.json("cfg.json") == {"d": 3}
    assert torch.equal(found.tensors("w.safetensors")["w"], torch.ones(3))
    with pytest.raises(BadName):
        found.bytes("../cfg.json")
    with pytest.raises(StorageError, match="no file"):
        found.bytes("other.json")


def test_a_newer_format_says_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.core.disk import artefact as _artefact

    with monkeypatch.context() as patch:
        patch.setattr(_artefact, "FORMAT", _artefact.FORMAT + 1)
        store.commit(tmp_path / "a", SMALL, schema="t")
    with pytest.raises(StorageError, match="newer interp") as caught:
        store.open_artefact(tmp_path / "a")
    assert "upgrade" in str(caught.value.fix)


def test_an_open_artefact_outlives_its_replacement(tmp_path: Path) -> None:
    target = store.commit(tmp_path / "a", SMALL, schema="t")
    old = store.open_artefact(target)
    store.commit(target, {"x.json": {"a": 2}}, schema="t", overwrite=True)
    assert old.json("x.json") == {"a": 1}
    assert torch.equal(old.tensors("w.safetensors")["w"], torch.arange(7.0))
    assert store.open_artefact(target).json("x.json") == {"a": 2}


def test_artefacts_close_their_files(tmp_path: Path) -> None:
    target = store.commit(tmp_path / "a", SMALL, schema="t")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        store.open_artefact(target)
    assert len(os.listdir("/proc/self/fd")) == before


def test_remove_deletes_only_what_interp_wrote(tmp_path: Path) -> None:
    target = store.commit(tmp_path / "a", SMALL, schema="t")
    store.remove(target)
    (tmp_path / "mine").mkdir()
    with pytest.raises(StorageError, match="interp did not write"):
        store.remove(tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_paths_typed_by_the_user_may_be_links_and_homes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store.commit(tmp_path / "link" / "a", SMALL, schema="t")
    assert store.open_artefact(tmp_path / "real" / "a").json("x.json") == {"a": 1}
    monkeypatch.setenv("HOME", str(tmp_path))
    store.commit("~/b", SMALL, schema="t")
    assert (tmp_path / "b" / "x.json").is_file()
    for path in ("", "a\0b"):
        with pytest.raises(BadName):
            store.commit(path, SMALL, schema="t")


# ------------------------------------------------------------------ leftovers


def staging_name(pid: int, prefix: str = ".tmp-", machine: str | None = None) -> str:
    return f"{prefix}{machine or _disk.machine()}-{pid}-{'0' * 12}"


def test_only_abandoned_staging_is_swept(tmp_path: Path) -> None:
    dead, here = dead_pid(), os.getpid()
    names = {
        staging_name(dead): False,
        staging_name(here): True,
        staging_name(dead, machine="00000000"): True,  # cannot be looked up from here
        ".tmp-something-of-the-user": True,
        ".tmp-": True,
    }
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    aged = tmp_path / f".tmp-{_disk.machine()}-{here}-{'1' * 12}"
    aged.mkdir()
    os.utime(aged, (0, time.time() - _disk.STALE_AFTER - 5))
    store.commit(tmp_path / "a", SMALL, schema="t")
    assert {name: (tmp_path / name).exists() for name in names} == names
    assert not aged.exists()


def test_an_old_copy_left_by_a_dead_writer_is_put_back(tmp_path: Path) -> None:
    target = store.commit(tmp_path / "a", SMALL, schema="t")
    aside = tmp_path / (staging_name(dead_pid(), ".old-") + "-a")
    target.rename(aside)
    assert store.open_artefact(target).json("x.json") == {"a": 1}  # the reader recovers
    assert leftovers(tmp_path) == []
    target.rename(aside)
    with pytest.raises(StorageError, match="exists already"):  # so does the writer
        store.commit(target, {"x.json": {"a": 2}}, schema="t")
    assert store.open_artefact(target).json("x.json") == {"a": 1}


def test_an_old_copy_beside_a_whole_target_is_deleted(tmp_path: Path) -> None:
    target = store.commit(tmp_path / "a", SMALL, schema="t")
    (tmp_path / (staging_name(dead_pid(), ".old-") + "-a")).mkdir()
    other = tmp_path / (staging_name(dead_pid(), ".old-") + "-b")
    other.mkdir()
    store.commit(target, {"x.json": {"a": 2}}, schema="t", overwrite=True)
    assert leftovers(tmp_path) == [other.name]  # b's, not a's to delete


def test_overwrite_without_atomic_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_disk, "_renameat2", lambda staged, target: False)
    for version in range(3):
        store.commit(tmp_path / "a", {"x.json": [version]}, schema="t", overwrite=True)
        assert store.open_artefact(tmp_path / "a").json("x.json") == [version]
    assert leftovers(tmp_path) == []


def test_this_system_exchanges_atomically(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("renameat2 is Linux's")
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert _disk._renameat2(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists() and (tmp_path / "b" / "a").exists()


# ------------------------------------------------------------------ single files


def test_write_text_is_atomic_and_refuses_to_replace(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.html"
    store.write_text(path, "one")
    with pytest.raises(StorageError, match="--overwrite"):
        store.write_text(path, "two")
    assert path.read_text() == "one"
    store.write_text(path, b"two", overwrite=True)
    assert path.read_text() == "two"
    with pytest.raises(StorageError, match="is a folder"):
        store.write_text(tmp_path / "new", "x", overwrite=True)
    with pytest.raises(StorageError, match="UTF-8"):
        store.write_text(tmp_path / "s.txt", "\ud800")
    assert leftovers(path.parent) == [] and not (tmp_path / "s.txt").exists()


def test_write_text_lets_no_rival_be_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rival's file that appears after the check and before the rename survives."""

    def rival(operation: str, path: Path) -> None:
        if operation == "rename":
            (tmp_path / "r.txt").write_text("rival")

    monkeypatch.setattr(store, "_fault", rival)
    with pytest.raises(StorageError, match="exists already"):
        store.write_text(tmp_path / "r.txt", "mine")
    assert (tmp_path / "r.txt").read_text() == "rival"
    assert leftovers(tmp_path) == []


def test_append_and_read_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    records = [{"step": i, "text": "line\nbreak é"} for i in range(5)]
    for record in records:
        store.append(path, record)
    assert store.read_jsonl(path) == records
    with pytest.raises(StorageError, match="no JSON"):
        store.append(path, {"loss": float("nan")})
    assert store.read_jsonl(path) == records


def test_a_torn_last_line_is_dropped_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    store.append(path, {"step": 1})
    first = path.read_bytes()
    store.append(path, {"step": 22})
    whole = path.read_bytes()
    for cut in range(len(first), len(whole)):
        path.write_bytes(whole[:cut])
        assert store.read_jsonl(path) == [{"step": 1}]
        store.append(path, {"step": 3})
        assert store.read_jsonl(path) == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize("line", [b"{", b"[1]", b"\xff", b"", b"[" * 100_000])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(CorruptArtefact, match=r"m\.jsonl, line 2"):
        store.read_jsonl(path)
    with pytest.raises(StorageError, match="absent"):
        store.read_jsonl(tmp_path / "absent.jsonl")


# ------------------------------------------------------------------ locks


def test_a_lock_names_its_holder_and_is_released(tmp_path: Path) -> None:
    with store.lock(tmp_path / "run"):
        with pytest.raises(StorageError) as caught, store.lock(tmp_path / "run"):
            pass
        for part in (str(os.getpid()), os.uname().nodename, "since 20", str(tmp_path / "run")):
            assert part in str(caught.value)
        with store.lock(tmp_path / "other"):
            pass
    with store.lock(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


def write_lock(folder: Path, **changes: object) -> Path:
    holder = {"pid": os.getpid(), "host": "h", "machine": _disk.machine(), "token": "t" * 12}
    path = folder / ".lock-run"
    path.write_text(json.dumps(holder | {"since": "then", "born": None} | changes))
    return path


def test_only_a_dead_holder_loses_its_lock(tmp_path: Path) -> None:
    from interp.core.disk.lock import _born

    write_lock(tmp_path, pid=dead_pid())
    with store.lock(tmp_path / "run"):
        pass
    write_lock(tmp_path, born="1")  # our process id, but of an earlier process
    with store.lock(tmp_path / "run"):
        pass
    alive = {"born": _born(os.getpid())}
    elsewhere = {"machine": "00000000", "pid": dead_pid()}
    for changes in (alive, elsewhere):
        path = write_lock(tmp_path, **changes)
        before = path.read_text()
        with pytest.raises(StorageError, match="in use"), store.lock(tmp_path / "run"):
            pass
        assert path.read_text() == before
    path.write_text("?")
    with pytest.raises(StorageError, match="no lock"), store.lock(tmp_path / "run"):
        pass


def contend(folder: Path, go: object, done: object, wins: object) -> None:
    go.wait()
    try:
        with store.lock(folder / "run"):
            wins.put(os.getpid())
            done.wait()  # nobody lets go before all have tried
    except StorageError:
        done.wait()


@pytest.mark.parametrize("stale", [False, True], ids=["free", "dead-holder"])
def test_twenty_processes_one_winner(tmp_path: Path, stale: bool, full_count: bool) -> None:
    context = multiprocessing.get_context("fork")
    for round_ in range(50 if full_count else 2):
        folder = tmp_path / str(round_)
        folder.mkdir()
        if stale:
            write_lock(folder, pid=dead_pid())
        go, done, wins = context.Barrier(20), context.Barrier(20), context.Queue()
        workers = [context.Process(target=contend, args=(folder, go, done, wins)) for _ in range(20)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(HANG)
        assert [worker.exitcode for worker in workers] == [0] * 20
        wins.get(timeout=HANG)
        assert wins.empty()
        assert list(folder.iterdir()) == []


def test_twenty_processes_commit_one_folder(tmp_path: Path) -> None:
    """Without any lock: one winner, and its folder is whole."""

    pids = []
    for number in range(20):
        pid = fork()
        if pid == 0:
            code = 1
            try:
                store.commit(tmp_path / "a", {f"{number}.txt": "x", "n.txt": "y"}, schema="t")
                code = 0
            except StorageError as error:
                code = 7 if "exists already" in str(error) else 1
            finally:
                os._exit(code)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert sorted(codes) == [0] + [7] * 19
    found = store.open_artefact(tmp_path / "a")
    assert sorted(found.names()) == sorted(["n.txt", f"{codes.index(0)}.txt"])
    assert leftovers(tmp_path) == []
