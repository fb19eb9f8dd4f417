from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoo.errors import ZooError
from zoo.store import (
    DAY_SECONDS,
    atomic_file,
    atomic_folder,
    cache_dir,
    canonical_json,
    digest,
    file_sha256,
    lock,
    read_json,
    stage_dir,
    sweep,
    write_bytes,
    write_json,
)


def tree(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def run(code: str) -> int:
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode


# ---- where the cache is


def test_zoo_cache_comes_first_then_xdg_then_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("ZOO_CACHE", "~/mine")
    assert cache_dir("a", "b") == tmp_path / "home" / "mine" / "a" / "b"
    monkeypatch.delenv("ZOO_CACHE")
    assert cache_dir("a") == tmp_path / "xdg" / "zoo" / "a"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_dir() == tmp_path / "home" / ".cache" / "zoo"
    assert tree(tmp_path) == []


# ---- content addresses


def test_canonical_json_is_one_spelling() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "µ"}) == '{"a":"µ","b":[1,2.5,null]}'
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_the_digest_is_sha256_of_the_canonical_json() -> None:
    # printf '{"a":"\xc2\xb5","b":[1,2.5,null]}' | sha256sum
    assert digest({"b": [1, 2.5, None], "a": "µ"}) == "476162be7b7d9fd5faee43ad0141019d2763cf3bb97f72e63937bd0fd0eb41e1"
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_file_sha256_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the first vector of FIPS 180-2
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_stage_is_a_folder_that_says_what_decided_it(cache: Path) -> None:
    identity = {"model": "x", "seed": 3}
    path = stage_dir("generated", identity)
    assert path == cache / "generated" / digest(identity)[:32]
    assert read_json(path / "identity.json") == identity
    before = (path / "identity.json").stat().st_mtime_ns
    assert stage_dir("generated", {"seed": 3, "model": "x"}) == path
    assert (path / "identity.json").stat().st_mtime_ns == before
    assert stage_dir("generated", {**identity, "seed": 4}) != path


# ---- files appear whole or not at all


def test_json_is_readable_sorted_and_ends_with_a_line(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "x.json", {"b": 1, "a": "µV"})
    assert (tmp_path / "new" / "x.json").read_text(encoding="utf-8") == '{\n  "a": "µV",\n  "b": 1\n}\n'
    assert tree(tmp_path / "new") == ["x.json"]


def test_an_unfinished_file_has_no_name(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"old")

    def write() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write()
    assert (path.read_bytes(), tree(tmp_path)) == (b"old", ["x"])


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"old")
    code = f"""
import os, pathlib
from zoo.store import atomic_file
with atomic_file(pathlib.Path({str(path)!r})) as file:
    file.write(b"new")
    file.flush()
    os._exit(9)
"""
    assert run(code) == 9
    assert path.read_bytes() == b"old"
    write_bytes(path, b"newer")
    assert path.read_bytes() == b"newer"


def test_the_bytes_are_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "x", os.fsync
    seen: list[tuple[int, bool]] = []

    def watch(handle: int) -> None:
        seen.append((os.fstat(handle).st_size, path.exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", watch)
    write_bytes(path, b"12345")
    assert seen[0] == (5, False)
    assert [exists for _, exists in seen] == [False, True], "then the folder is synced"


def test_results_are_as_readable_as_any_other_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    (tmp_path / "dir").mkdir()
    write_bytes(tmp_path / "x", b"")
    with atomic_folder(tmp_path / "folder"):
        pass
    for ours, plain in (("x", "plain"), ("folder", "dir")):
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (ours, plain)]
        assert modes[0] == modes[1]


# ---- folders likewise


def test_a_folder_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    with atomic_folder(path) as work:
        (work / "a").write_text("1")
        assert not path.exists()
    assert tree(tmp_path / "deep") == ["data", "data/a"]


def test_a_folder_replaces_the_older_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "data"
    for name in ("old", "new"):
        with atomic_folder(path) as work:
            (work / name).touch()
    assert tree(tmp_path) == ["data", "data/new"]


def test_a_broken_folder_leaves_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with atomic_folder(path) as work:
        (work / "old").touch()

    def write() -> None:
        with atomic_folder(path) as work:
            (work / "new").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert tree(tmp_path) == ["data", "data/old"]


def test_a_killed_process_leaves_the_older_folder(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with atomic_folder(path) as work:
        (work / "old").touch()
    code = f"""
import os, pathlib
from zoo.store import atomic_folder
with atomic_folder(pathlib.Path({str(path)!r})) as work:
    (work / "new").touch()
    os._exit(9)
"""
    assert run(code) == 9
    assert tree(path) == ["old"]


# ---- what killed processes leave


KILLED = """
import os, pathlib
from zoo.store import atomic_file, atomic_folder
root = pathlib.Path({root!r})
with atomic_file(root / "a" / "x") as file, atomic_folder(root / "b" / "y") as work:
    file.write(b"123")
    file.flush()
    (work / "z").write_bytes(b"4567")
    {end}
"""


def test_what_killed_processes_left_goes_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "a" / "x", b"finished")
    (tmp_path / "a" / ".hidden").touch()
    assert run(KILLED.format(root=str(tmp_path), end="os._exit(9)")) == 9
    assert len(tree(tmp_path)) == 7, "a, b, two files; unfinished: a file, a folder and what is in it"
    assert sweep(tmp_path) == (0, 0)
    tomorrow = time.time() + DAY_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    assert sweep(tmp_path) == (2, 7)
    assert tree(tmp_path) == ["a", "a/.hidden", "a/x", "b"]
    assert sweep(tmp_path / "nowhere") == (0, 0)


def test_what_a_living_process_writes_stays_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tomorrow = time.time() + DAY_SECONDS + 60
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    code = KILLED.format(root=str(tmp_path), end='print("here", flush=True); input()')
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        before = tree(tmp_path)
        assert sweep(tmp_path) == (0, 0)
        assert tree(tmp_path) == before
        process.kill()
    assert sweep(tmp_path) == (2, 7)
    assert tree(tmp_path) == ["a", "b"]


# ---- a full disk


MESSAGE = (
    "no space left on the disk of {folder}: free some, or point ZOO_CACHE at a larger disk, "
    "then run the same command again (finished work is kept)."
)


def test_a_disk_full_while_writing_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ZooError) as error:
        write_bytes(tmp_path / "x", b"data")
    assert str(error.value) == MESSAGE.format(folder=tmp_path)
    assert tree(tmp_path) == []


def test_a_disk_full_inside_a_folder_is_the_same_sentence(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_folder(tmp_path / "data") as work:
            (work / "a").touch()
            no_space()

    with pytest.raises(ZooError) as error:
        write()
    assert str(error.value) == MESSAGE.format(folder=tmp_path)
    assert tree(tmp_path) == []


def test_a_disk_full_before_the_folder_is_the_same_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", no_space)
    for begin in (atomic_file, atomic_folder):
        with pytest.raises(ZooError) as error, begin(tmp_path / "data"):
            pass
        assert str(error.value) == MESSAGE.format(folder=tmp_path)


def test_other_errors_of_the_disk_keep_their_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        write_bytes(tmp_path / "file" / "x", b"")


# ---- locks


def test_a_lock_keeps_other_processes_out(tmp_path: Path) -> None:
    code = f"""
import sys
from filelock import FileLock, Timeout
try:
    FileLock({str(tmp_path / "x.lock")!r}).acquire(timeout=0)
except Timeout:
    sys.exit(3)
"""
    with lock(tmp_path / "x"):
        assert run(code) == 3
    assert run(code) == 0


def test_what_is_under_the_lock_is_done_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "count"
    code = f"""
import pathlib
from zoo.store import lock, write_bytes
path = pathlib.Path({str(path)!r})
for _ in range(25):
    with lock(path):
        count = int(path.read_bytes()) if path.exists() else 0
        write_bytes(path, str(count + 1).encode())
"""
    workers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert path.read_text() == "75"
