"""Foreign pickles are read for what they hold and never run."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from zoo import foreign
from zoo.errors import IntegrityError, UsageError, ZooError

ZIP = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
READERS: list[Callable[[Path], Any]] = [foreign.read_torch, foreign.read_pickle, foreign.read_npy]
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
"""An array of Python 2 before its state."""
FLOAT4 = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
OBJECT = b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R"


def refused(path: Path, what: str) -> str:
    return (
        f"{path} must hold only tensors, arrays, dicts, lists, numbers and strings, but {what}; nothing in it was run: "
        "do not open it with anything else, and get the file from its authors."
    )


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(IntegrityError) as caught:
        read(path)
    return str(caught.value)


def saved(path: Path, value: Any, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def rezipped(path: Path, pickled: bytes | None = None, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """The archive anew, compressed, perhaps with another ``data.pkl``."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, pickled if pickled and name.endswith("/data.pkl") else data)
    return path


class Runs:
    """What a malicious file holds: unpickling it runs a command of the shell."""

    def __init__(self, marker: Path) -> None:
        self.command = f"touch {marker}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


# what is in good files


@ZIP
@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
        *(torch.bool, torch.complex64, torch.complex128),
    ],
    ids=str,
)
def test_every_dtype_of_torch(tmp_path: Path, dtype: torch.dtype, zipped: bool) -> None:
    tensor = torch.arange(-3, 9).reshape(3, 4).to(dtype)
    array = foreign.read_torch(saved(tmp_path / "x.pth", tensor, zipped))
    assert type(array) is np.ndarray
    assert not array.flags.writeable
    assert array.dtype == tensor.numpy().dtype
    np.testing.assert_array_equal(array, tensor.numpy())


@ZIP
def test_bfloat16_becomes_float32(tmp_path: Path, zipped: bool) -> None:
    tensor = torch.linspace(-3, 3, 12).reshape(3, 4).bfloat16()
    read = foreign.read_torch(saved(tmp_path / "x.pth", [tensor, tensor.t()], zipped))
    assert read[0].dtype == np.float32
    np.testing.assert_array_equal(read[0], tensor.float().numpy())
    assert np.shares_memory(read[0], read[1])
    assert not read[1].flags.writeable


@ZIP
def test_views_keep_strides_offset_and_shared_memory(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(120.0).reshape(4, 5, 6)
    views = [base, base.permute(2, 0, 1), base[1:, ::2, 3:], base[2, 1, 4], base[:0], base[:1].expand(3, 5, 6)]
    arrays = foreign.read_torch(saved(tmp_path / "x.pth", views, zipped))
    for array, view in zip(arrays, views, strict=True):
        np.testing.assert_array_equal(array, view.numpy())
        assert array.shape == tuple(view.shape)
        assert not array.flags.writeable
        if view.numel():
            assert array.strides == view.numpy().strides
            assert np.shares_memory(array, arrays[0])
            assert array.__array_interface__["data"][0] - arrays[0].__array_interface__["data"][0] == (
                view.data_ptr() - base.data_ptr()
            )


@ZIP
def test_everything_on_the_list_in_one_file(tmp_path: Path, zipped: bool) -> None:
    state = torch.nn.Linear(2, 3).state_dict()
    assert vars(state)  # torch's _metadata, an attribute of the OrderedDict
    value = {
        "words": ["ä", "", "x" * 300],
        "bytes": [b"", b"\xff\x00", b"y" * 300],
        "numbers": (0, -1, 255, 65536, 2**40, 2**70, -(2**70), 1.5, float("inf"), True, False, None),
        "state": state,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "array": np.arange(6.0).reshape(2, 3),
        "number": np.float32(2.5),
        7: OrderedDict([("b", 1), ("a", [])]),
    }
    read = foreign.read_torch(saved(tmp_path / "x.pth", value, zipped))
    for key in ("words", "bytes", "numbers", 7):
        assert read[key] == value[key]
    assert list(read["state"]) == ["weight", "bias"]
    assert type(read["state"]) is OrderedDict
    assert not vars(read["state"])
    np.testing.assert_array_equal(read["state"]["weight"], state["weight"].numpy())
    np.testing.assert_array_equal(read["parameter"], [1.0, 1.0])
    np.testing.assert_array_equal(read["array"], value["array"])
    assert read["number"] == 2.5
    assert type(read["number"]) is np.float32


@ZIP
def test_a_file_of_many_tensors_is_mapped(tmp_path: Path, zipped: bool) -> None:
    """As EEGCVPR40 is laid out: every trial has its own storage; none of it is copied."""
    trials = [{"eeg": torch.full((16, 500), float(i)), "image": i, "label": i % 40} for i in range(300)]
    path = saved(tmp_path / "x.pth", {"dataset": trials, "labels": ["n01"], "images": ["n01_1"]}, zipped)
    del trials
    tracemalloc.start()
    read = foreign.read_torch(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 300 * 16 * 500 * 4
    assert peak < path.stat().st_size / 5
    assert [trial["eeg"][7, 250] for trial in read["dataset"]] == list(range(300))
    assert read["labels"] == ["n01"]


def test_a_compressed_archive_is_read_too(tmp_path: Path) -> None:
    tensor = torch.arange(1000.0)
    path = rezipped(saved(tmp_path / "x.pth", [tensor, tensor[5:]]))
    read = foreign.read_torch(path)
    np.testing.assert_array_equal(read[1], tensor[5:].numpy())
    assert np.shares_memory(read[0], read[1])
    assert not read[0].flags.writeable


def old_tar(path: Path, pickled: bytes | None = None, *, stride: int = 1) -> Path:
    """A file as torch 0.1 wrote it: a tensor of 2 × 3 in a view of a storage of 8, and a link that leads astray."""
    storage_type, tensor_type = b"ctorch\nFloatStorage\n", b"ctorch\nFloatTensor\n"
    numbers = np.arange(8, dtype="<f4")
    storages = (
        pickle.dumps(1, 2)
        + (b"\x80\x02(K\x07X\x03\x00\x00\x00cpu" + storage_type + b"t.")
        + struct.pack("<q", 8)
        + numbers.tobytes()
        + pickle.dumps([(8, 7, 1, 7)], 2)
    )
    tensors = (
        pickle.dumps(1, 2)
        + (b"\x80\x02(K\x09K\x08" + tensor_type + b"t.")
        + struct.pack("<i4x2q2qq", 2, 2, 3, 3, stride, 1)
    )
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        link = tarfile.TarInfo("../../escaped")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, data in {
            "storages": storages,
            "tensors": tensors,
            "pickle": pickled or b"\x80\x02}U\x01wU\x019Qs.",
            "/absolute": b"x",
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1.5  # a time like this is a header of its own in this format
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_the_tar_of_torch_0_1(tmp_path: Path) -> None:
    read = foreign.read_torch(old_tar(tmp_path / "x.pth"))
    np.testing.assert_array_equal(read["w"], [[2, 3, 4], [5, 6, 7]])
    assert read["w"].dtype == np.float32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pth"]


def test_a_view_of_a_storage_in_an_old_stream(tmp_path: Path) -> None:
    """Torch before 0.4 wrote views of storages: (key, first element, elements)."""
    stream = [
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        pickle.dumps(1001, 2),
        pickle.dumps({"little_endian": True}, 2),
        b"\x80\x02ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nIntStorage\nU\x017U\x03cpuK\x06(U\x018K\x02K\x03ttQ"
        b"K\x01K\x02\x85K\x01\x85tR.",
        pickle.dumps(["7"], 2),
        struct.pack("<q6i", 6, *range(6)),
    ]
    np.testing.assert_array_equal(foreign.read_torch(written(tmp_path / "x.pth", b"".join(stream))), [3, 4])


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "plain": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "permuted": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        "big-endian": np.arange(3, dtype=">i4"),
        "text": np.array(["a", "bé"]),
        "bytes": np.array([b"a", b"bcd"]),
        "empty": np.empty((0, 4), np.float32),
        "zero-d": np.array(3.0),
        "bool": np.array([True, False]),
        "complex": np.array([1j]),
        "object": np.asfortranarray(np.array([[1, "a"], [None, (2, b"\xff")]], dtype=object)),
        "long": np.arange(20_000),
    }
    others = {"b": b"\xff" * 70_000, "n": np.int64(3), "s": np.str_(""), np.int64(5): "é", (1, "a"): [], b"k": {}}
    path = written(tmp_path / "x.pkl", pickle.dumps({"arrays": arrays, "others": others}, protocol))
    read = foreign.read_pickle(path)
    assert read["others"] == others
    assert {key: type(value) for key, value in read["others"].items()} == {k: type(v) for k, v in others.items()}
    for key, array in arrays.items():
        np.testing.assert_array_equal(read["arrays"][key], array)
        assert read["arrays"][key].dtype == array.dtype
        assert read["arrays"][key].shape == array.shape
        assert not read["arrays"][key].flags.writeable


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_shared_and_cyclic_contents_stay_so(tmp_path: Path, protocol: int) -> None:
    inner: list[Any] = [1]
    array = np.empty(2, dtype=object)
    array[0] = inner
    value: dict[str, Any] = {"a": inner, "b": (inner, inner), "array": array}
    value["self"] = inner
    inner.append(value)
    read = foreign.read_pickle(written(tmp_path / "x.pkl", pickle.dumps(value, protocol)))
    assert read["a"][1] is read
    assert read["b"][0] is read["b"][1] is read["a"] is read["array"][0]


def test_references_to_references_are_no_bomb(tmp_path: Path) -> None:
    """A list of two of a list of two …, 99 levels deep: 2**99 leaves, 99 lists."""
    value: list[Any] = []
    for _ in range(99):
        value = [value, value]
    read = foreign.read_pickle(written(tmp_path / "x.pkl", pickle.dumps(value)))
    for _ in range(99):
        assert read[0] is read[1]
        read = read[0]
    assert read == []


@pytest.mark.parametrize("numbers", [[0.0, 0.0, 0.0], [-1.5, 2.0, 3e30]], ids=["ascii", "not ascii"])
def test_a_python2_pickle(tmp_path: Path, numbers: list[float]) -> None:
    """Strings that are text are str, all others bytes; what is in arrays is neither, also where it looks like text."""
    raw = np.array(numbers, "<f4").tobytes()
    assert raw.isascii() == (numbers == [0.0, 0.0, 0.0])
    data = (
        b"\x80\x02}q\x00(U\x04nameq\x01U\x03abcq\x02U\x03rawT\x02\x00\x00\x00\xff\x00U\x04\xc3\xa9\xff!h\x01"
        + (b"U\x03eeg" + ARRAY + b"(K\x01K\x03\x85" + FLOAT4 + b"\x89U\x0c" + raw + b"tb")
        + (b"U\x01ncnumpy.core.multiarray\nscalar\n" + FLOAT4 + b"U\x04" + raw[:4] + b"\x86R")
        + b"U\x01dccollections\nOrderedDict\n]](U\x01aK\x01ea\x85Ru."
    )
    path = written(tmp_path / "x.pkl", data)
    read = foreign.read_pickle(path)
    assert read["name"] == "abc"
    assert read["raw"] == b"\xff\x00"
    assert read[b"\xc3\xa9\xff!"] == "name"
    assert read["eeg"].dtype == np.float32
    np.testing.assert_array_equal(read["eeg"], np.array(numbers, "f4"))
    assert read["n"] == np.float32(numbers[0])
    assert read["d"] == OrderedDict(a=1)
    by_python = pickle.loads(data, encoding="latin1")
    np.testing.assert_array_equal(read["eeg"], by_python["eeg"])
    assert by_python["d"] == read["d"]


def test_a_python2_pickle_in_text(tmp_path: Path) -> None:
    data = (
        b"(dp0\nS'name'\np1\nS'a\\xff\\n'\np2\nsS'yes'\nI01\nsS'n'\nI-7\nsS'long'\nL5L\nsS'f'\nF1.5\nsV\\u00e9\n"
        b"(lp3\nNaI00\nag1\nasS\"it's\"\n(S't'\nts."
    )
    expected = {"name": b"a\xff\n", "yes": True, "n": -7, "long": 5, "f": 1.5, "é": [None, False, "name"]}
    assert foreign.read_pickle(written(tmp_path / "x.pkl", data)) == {**expected, "it's": ("t",)}


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<i2", "|u1", "|b1", "<c16", "<U3", "|S4"])
def test_a_plain_npy_is_mapped(tmp_path: Path, dtype: str) -> None:
    array = np.arange(1000).reshape(10, 100).astype(dtype)
    for stored in (array, array.T, array[3, 4, ...], array[:0]):
        np.save(tmp_path / "x.npy", stored)
        read = foreign.read_npy(tmp_path / "x.npy")
        np.testing.assert_array_equal(read, stored)
        assert read.dtype == dtype
        assert read.shape == stored.shape
        assert not read.flags.writeable
        assert not read.flags.owndata or not read.size or not read.ndim


def test_keys_that_hash_for_years_are_refused_everywhere(tmp_path: Path) -> None:
    stream = saved(tmp_path / "x.pth", torch.ones(2), zipped=False).read_bytes()
    keys = pickle.dumps([str(torch.ones(2).untyped_storage()._cdata)], 2)[:2]
    place = stream.rindex(keys + b"]q")
    path = written(tmp_path / "x.pth", stream[:place] + b"\x80\x02]" + nested_tuples(60) + b"a." + stream[place:])
    assert refusal(foreign.read_torch, path) == refused(path, "has a tuple in a key")


def test_an_npy_header_of_python2(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3L,), }\n"
    path = written(
        tmp_path / "x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + np.ones(3, "<f4").tobytes()
    )
    np.testing.assert_array_equal(foreign.read_npy(path), [1, 1, 1])


def test_object_arrays_in_npy(tmp_path: Path) -> None:
    """As THINGS-EEG2 is published: a dict in an array without dimensions."""
    eeg = np.arange(30_000.0).reshape(3, 10_000)
    value = {"eeg": eeg, "ch_names": ["O1"], "in": {"a": np.array([{"b": eeg}])}}
    np.save(tmp_path / "x.npy", np.array(value, dtype=object), allow_pickle=True)
    read = foreign.read_npy(tmp_path / "x.npy")
    assert type(read) is dict
    np.testing.assert_array_equal(read["eeg"], eeg)
    assert read["ch_names"] == ["O1"]
    assert read["in"]["a"][0]["b"] is read["eeg"]
    ragged = np.empty((2, 1), dtype=object)
    ragged[:, 0] = ["a", [1, 2]]
    np.save(tmp_path / "x.npy", ragged, allow_pickle=True)
    assert foreign.read_npy(tmp_path / "x.npy").tolist() == [["a"], [[1, 2]]]


def test_a_pickle_called_npy(tmp_path: Path) -> None:
    path = written(tmp_path / "x.npy", pickle.dumps({"eeg": np.arange(3)}, 4))
    np.testing.assert_array_equal(foreign.read_npy(path)["eeg"], [0, 1, 2])


# what is in bad files


def malicious(folder: Path, marker: Path) -> dict[str, tuple[Callable[[Path], Any], Path]]:
    """The same command hidden in every kind of file."""
    runs = Runs(marker)
    nested = {"a": [1, {"b": (runs,)}]}
    np.save(folder / "object.npy", np.array([nested, runs], dtype=object), allow_pickle=True)
    return {
        "alone": (foreign.read_pickle, written(folder / "alone.pkl", pickle.dumps(runs))),
        "protocol 0": (foreign.read_pickle, written(folder / "text.pkl", pickle.dumps(runs, 0))),
        "nested": (foreign.read_pickle, written(folder / "nested.pkl", pickle.dumps(nested))),
        "no npy": (foreign.read_npy, written(folder / "no.npy", pickle.dumps(nested))),
        "object npy": (foreign.read_npy, folder / "object.npy"),
        "plain pth": (foreign.read_torch, written(folder / "plain.pth", pickle.dumps(runs))),
        "zip": (foreign.read_torch, saved(folder / "zip.pth", nested)),
        "compressed": (foreign.read_torch, rezipped(saved(folder / "deflated.pth", nested))),
        "stream": (foreign.read_torch, saved(folder / "stream.pth", nested, zipped=False)),
        "tar": (foreign.read_torch, old_tar(folder / "tar.pth", pickle.dumps(nested, 2))),
    }


def test_a_command_is_refused_wherever_it_hides(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for kind, (read, path) in malicious(tmp_path, marker).items():
        assert refusal(read, path) == refused(path, f"names {os.system.__module__}.system"), kind
        assert not marker.exists(), kind
    pickle.loads((tmp_path / "nested.pkl").read_bytes())
    assert marker.exists()  # so it would have run


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "posix.system", "nt.system", "subprocess.Popen", "builtins.eval", "__builtin__.eval"),
        *("builtins.getattr", "builtins.__import__", "operator.attrgetter", "operator.methodcaller"),
        *("functools.partial", "importlib.import_module", "copyreg._reconstructor", "copy_reg._reconstructor"),
        *("pickle.loads", "_pickle.loads", "types.CodeType", "types.FunctionType", "ctypes.CDLL", "runpy.run_path"),
        *("numpy.load", "numpy.fromfile", "numpy.memmap", "numpy.lib.npyio.load", "numpy.core.multiarray.fromfile"),
        *("numpy.testing._private.utils.runstring", "numpy.f2py.crackfortran.myeval", "numpy.core.records.recarray"),
        *("torch.load", "torch.hub.load", "torch.storage._load_from_bytes", "torch.serialization.load"),
        *("torch._utils._rebuild_sparse_tensor", "torch._tensor._rebuild_from_type_v2", "torch.jit.load"),
        *("collections.defaultdict", "collections.Counter", "collections.OrderedDict.__init__", "numpy.dtype.__new__"),
        *("builtins.bytearray", "builtins.set", "builtins.range", "pathlib.PosixPath", "codecs.encode", "this.s"),
    ],
)
def test_no_other_name_is_known(tmp_path: Path, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    loaded = set(sys.modules)
    in_text = f"c{module}\n{attribute}\n".encode()
    from_stack = pickle.SHORT_BINUNICODE + bytes([len(module)]) + module.encode()
    from_stack += pickle.SHORT_BINUNICODE + bytes([len(attribute)]) + attribute.encode() + pickle.STACK_GLOBAL
    for start in (in_text, from_stack, b"]" + in_text, b"(i" + in_text[1:]):
        path = written(tmp_path / "x", start + b"(X\x01\x00\x00\x00xtR.")
        for read in READERS:
            assert refusal(read, path) == refused(path, f"names {name}")
    assert set(sys.modules) == loaded


def nested_tuples(levels: int) -> bytes:
    """A tuple of twice the same tuple …: hashing or printing it takes 2**levels steps."""
    return b")" + b"2\x86" * levels


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (ARRAY.replace(b"cnumpy\nndarray", b"cnumpy\ndtype") + b".", "makes an array of numpy.dtype"),
        (b"cnumpy\nndarray\n(K\x03tR.", "calls numpy.ndarray"),
        (b"ctorch\nFloatStorage\n(K\x03tR.", "calls torch.FloatStorage"),
        (b"U\x02os(U\x01xtR.", "calls 'os'"),
        (b"]K\x01R.", "calls a list"),
        (b"ccollections\nOrderedDict\n.", "names collections.OrderedDict"),
        (b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R.", "names a dtype"),
        (b"c_codecs\nencode\n(U\x01aU\x05rot13tR.", "names the codec 'rot13'"),
        (b"c_codecs\nencode\n(U\x01aU\x05utf_7tR.", "names the codec 'utf_7'"),
        (b"cnumpy\ndtype\nU\x03f4,K\x00K\x01\x87R.", "names the dtype 'f4,'"),
        (b"cnumpy\ndtype\nU\x02M8K\x00K\x01\x87R.", "names the dtype 'M8'"),
        (b"cnumpy\ndtype\nU\x02V8K\x00K\x01\x87R.", "names the dtype 'V8'"),
        (b"cnumpy\ndtype\n]K\x00K\x01\x87R.", "names the dtype a list"),
        (OBJECT + b"(K\x03U\x01|NU\x01aNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.", "names a structured dtype"),
        (b"cnumpy.core.multiarray\nscalar\n" + OBJECT + b"U\x00\x86R.", "names the dtype object"),
        (b"]}U\x01aU\x01bsb.", "changes a list"),
        (b"}}U\x01aU\x01bsb.", "changes a dict"),
        (b"cnumpy\nndarray\n}U\x05shapeK\x00sb.", "changes numpy.ndarray"),
        (b"ccollections\nOrderedDict\n}U\x04fromK\x00sb.", "changes collections.OrderedDict"),
        (b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87RU\x01xa.", "changes a dtype"),
        (b"(K\x01tK\x01K\x02s.", "changes a tuple"),
        (b"ccollections\nOrderedDict\n)\x81.", "makes collections.OrderedDict"),
        (b"ccollections\nOrderedDict\n)}\x92.", "makes collections.OrderedDict"),
        (b"(icollections\nOrderedDict\n.", "makes collections.OrderedDict"),
        (b"(cnumpy\nndarray\nK\x01o.", "makes numpy.ndarray"),
        (b"\x82\x01.", "names an object of the extension registry"),
        (b"\x83\x01\x00.", "names an object of the extension registry"),
        (b"\x84\x01\x00\x00\x00.", "names an object of the extension registry"),
        (b"\x97.", "names an object outside of the file"),
        (b"K\x07Q.", "names an object outside of the file"),
        (b"P7\n.", "names an object outside of the file"),
        (b"\x8f(K\x01\x90.", "names builtins.set"),
        (b"(K\x01\x91.", "names builtins.frozenset"),
        (b"}" + nested_tuples(60) + b"K\x01s.", "has a tuple in a key"),
        (b"}\x8a\x09\x01\x01\x01\x01\x01\x01\x01\x01\x01K\x01s.", "has a number of more than 64 bits in a key"),
        (b"]" * 101 + b"a" * 100 + b".", "nests deeper than 100 levels"),
        (b")" + b"\x85" * 1_000_000 + b".", "nests deeper than 100 levels"),
        (b"(" * 200_000 + b"t" * 200_000 + b".", "nests deeper than 100 levels"),
        (b"cevil\x1b[2J\nx\xc3\xa9\n.", "names evil\\x1b[2J.x\\xe9"),
        (b"c" + b"m" * 300 + b"\nx\n.", "names " + "m" * 200 + "…"),
    ],
)  # fmt: skip
def test_what_known_names_must_not_be_used_for(tmp_path: Path, data: bytes, what: str) -> None:
    path = written(tmp_path / "x.pkl", data)
    assert refusal(foreign.read_pickle, path) == refused(path, what)


def test_attributes_are_not_set(tmp_path: Path) -> None:
    """Python's unpickler would put these into the dict of the object, or call setattr with them."""
    for state in (b"}U\x05itemsK\x07s", b"N}U\x05itemsK\x07s\x86"):
        data = b"ccollections\nOrderedDict\n)R" + state + b"b."
        read = foreign.read_pickle(written(tmp_path / "x.pkl", data))
        assert read.items() == OrderedDict().items()
        assert pickle.loads(data).items == 7


@pytest.mark.parametrize(
    "data",
    [
        b"0" + ARRAY + b"q\x01" + b"0",  # POP of nothing
        ARRAY + b".",  # never filled
        ARRAY + b"K\x01b.",  # a state that is none
        ARRAY + b"(K\x01K\x03\x85" + FLOAT4 + b"\x89U\x0b" + b"x" * 11 + b"tb.",  # 11 bytes for 12
        ARRAY + b"(K\x01K\x03\x85" + FLOAT4 + b"\x89U\x0d" + b"x" * 13 + b"tb.",
        ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + FLOAT4 + b"\x89U\x00tb.",  # a negative shape
        ARRAY + b"(K\x01\x8a\x09" + b"\x01" * 9 + b"\x85" + FLOAT4 + b"\x89U\x00tb.",
        ARRAY + b"(K\x01K\x03\x85" + OBJECT + b"\x89]tb.",  # three objects, an empty list
        ARRAY + b"(K\x01K\x03\x85" + OBJECT + b"\x89U\x18" + b"A" * 24 + b"tb.",  # pointers made of bytes
        ARRAY + b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02U1K\x00K\x01\x87R\x89U\x04\x7f\x7f\x7f\x7ftb.",
        ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85cnumpy\ndtype\nU\x02U0K\x00K\x01\x87R\x89U\x00tb.",
        b"r\xff\xff\xff\x7f.",  # a memo of 32 GB in Python's unpickler
        b"]r\xff\xff\xff\x7fj\xfe\xff\xff\x7f.",
        b"\x8e" + b"\xff" * 7 + b"\x7f" + b"x.",  # bytes of 2**63
        b"\x8d" + b"\xff" * 8 + b"x.",
        b"T\xff\xff\xff\xffx.",
        b"\x95" + b"\xff" * 7 + b"\x7f.",
        b"L" + b"9" * 100_000 + b"L\n.",
        b"F" + b"x" * 1000 + b"\n.",
        b"Sno quotes\n.",
        b"X\x02\x00\x00\x00\xff\xff.",
        b"\xff.",
        b"(.",
        b"",
        b"K\x01K\x02.",
        b"(K\x01d.",
        b"ccollections\nOrderedDict\n((K\x01K\x02tt\x85R.",  # pairs in a tuple, which is not counted as a copy
        ARRAY + b"(K\x01K\x03\x85" + FLOAT4 + b"\x89N" * 2 + b"tb.",
        ARRAY * 20_000 + b"\x85b" * 19_999 + b".",  # arrays in arrays in arrays
        b"cos",
    ],
)
def test_damage_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path / "x.pkl", data)
    with pytest.raises(UsageError) as caught:
        foreign.read_pickle(path)
    message = str(caught.value)
    assert message.startswith(f"{path} must be a pickle, but it cannot be read (")
    assert message.endswith("); get it again.")
    assert len(message) < len(str(path)) + 300


def test_sentences_about_what_is_no_such_file(tmp_path: Path) -> None:
    whole = saved(tmp_path / "x.pth", torch.arange(5000.0), zipped=False).read_bytes()
    np.save(tmp_path / "s.npy", np.zeros(3, [("a", "<f8")]))
    np.save(tmp_path / "o.npy", np.empty(3, object), allow_pickle=True)
    other = (tmp_path / "o.npy").read_bytes().replace(b"'shape': (3,)", b"'shape': (4,)")
    torch_file, npy = "a file written by torch.save", "a .npy file"
    for read, name, data, kind, reason in (
        (foreign.read_torch, "cut.pth", whole[:-1], torch_file, "cut off"),
        (foreign.read_torch, "plain.pth", pickle.dumps({}), torch_file, "it does not begin as one"),
        (foreign.read_torch, "empty.pth", b"", torch_file, "cannot mmap an empty file"),
        (foreign.read_npy, "text.npy", b"\x93NUMPY\x09\x00", npy, "version (9, 0) is for structured arrays"),
        (foreign.read_npy, "other.npy", other, npy, "the array is not the one in its header"),
    ):
        path = written(tmp_path / name, data)
        with pytest.raises(UsageError) as caught:
            read(path)
        assert str(caught.value) == f"{path} must be {kind}, but it cannot be read ({reason}); get it again."
    assert refusal(foreign.read_npy, tmp_path / "s.npy") == refused(
        tmp_path / "s.npy", "names the dtype [('a', '<f8')]"
    )
    with pytest.raises(UsageError, match=r"must be a pickle, but it cannot be read \(.*No such file"):
        foreign.read_pickle(tmp_path / "none.pkl")


def tensor_pickle(tensor: str = "K\x00(K\x02t(K\x01t", storage: str = "K\x02", more: str = "\x89N") -> bytes:
    """``data.pkl`` of a tensor: offset, shape and strides, then what follows; a storage of so many float32."""
    return (
        "\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu"
        f"{storage}tQ{tensor}{more}tR."
    ).encode("latin1")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tensor_pickle("K\x01(K\x02t(K\x01t"), "a tensor reaches beyond its storage"),
        (tensor_pickle("K\x00(K\x02t(K\x02t"), "a tensor reaches beyond its storage"),
        (tensor_pickle("K\x00(K\x02K\x02t(K\x01K\x01t"), "a tensor reaches beyond its storage"),
        (tensor_pickle(storage="K\x03"), "a storage is cut off"),
        (tensor_pickle("K\x00(K\x02t(J\xff\xff\xff\xfft"), "a shape that is not a few whole numbers"),
        (tensor_pickle("J\xff\xff\xff\xff(K\x02t(K\x01t"), "a shape that is not a few whole numbers"),
        (tensor_pickle("K\x00(K\x02t(K\x01K\x01t"), "a tensor with another number of strides than dimensions"),
        (tensor_pickle().replace(b"U\x010", b"U\x019"), "'archive/data/9'"),
        (tensor_pickle().replace(b"U\x010", b"U\x05../.."), "'archive/data/../..'"),
    ],
)
def test_a_tensor_outside_of_its_storage(tmp_path: Path, data: bytes, reason: str) -> None:
    path = saved(tmp_path / "archive.pth", torch.ones(2))
    np.testing.assert_array_equal(foreign.read_torch(rezipped(path, tensor_pickle())), [1, 1])
    rezipped(path, data, zipfile.ZIP_STORED)
    with pytest.raises(UsageError) as caught:
        foreign.read_torch(path)
    assert str(caught.value) == (
        f"{path} must be a file written by torch.save, but it cannot be read ({reason}); get it again."
    )


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (tensor_pickle(more="\x89N}U\x04conj\x88s"), "names a tensor that is a conjugate or a negative"),
        (tensor_pickle("K\x00(J\xff\xff\xff\x7ft(K\x00t"), "repeats a number too often"),
        (tensor_pickle().replace(b"U\x07storage", b"U\x06module"), "names an object outside of the file, 'module'"),
        (b"\x80\x02U\x010Q.", "names an object outside of the file, '0'"),
        (tensor_pickle().replace(b"FloatStorage", b"FloatTensor"), "has a storage of torch.FloatTensor"),
        (b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02tQ.", "names a storage"),
    ],
)
def test_what_a_torch_file_must_not_name(tmp_path: Path, data: bytes, what: str) -> None:
    path = rezipped(saved(tmp_path / "archive.pth", torch.ones(2)), data)
    assert refusal(foreign.read_torch, path) == refused(path, what)


def test_a_zip_bomb(tmp_path: Path) -> None:
    path = rezipped(saved(tmp_path / "archive.pth", torch.zeros(10_000_000)))
    size = path.stat().st_size
    assert size < 100_000
    with zipfile.ZipFile(path) as archive:
        declared = sum(entry.file_size for entry in archive.infolist())
    assert refusal(foreign.read_torch, path) == (
        f"{path} must not unpack to more than 20 times its size, but {size} bytes would become {declared}; "
        "get the file from its authors."
    )


def test_a_zip_bomb_that_declares_little(tmp_path: Path) -> None:
    """An entry of 40 MB that says it has 8 bytes: no more than these are unpacked."""
    path = rezipped(saved(tmp_path / "archive.pth", torch.zeros(10_000_000)), tensor_pickle())
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 40_000_000), struct.pack("<I", 8)))
    tracemalloc.start()
    with pytest.raises(UsageError, match="Bad CRC-32 for file 'archive/data/0'"):
        foreign.read_torch(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "copied",
    [
        (b"c_codecs\nencode\nq\x01(X\x40\x42\x0f\x00" + b"x" * 1_000_000 + b"U\x06latin1tq\x02R", b"h\x01h\x02R"),
        (b"ccollections\nOrderedDict\nq\x01](" + b"(K\x01K\x02t" * 50_000 + b"e\x85q\x02R", b"h\x01h\x02R"),
        (
            b"cnumpy.core.multiarray\n_reconstruct\nq\x01(cnumpy\nndarray\nK\x00\x85U\x01btq\x02R"
            + (b"(K\x01M\x50\xc3\x85" + OBJECT + b"\x89](" + b"N" * 50_000 + b"etq\x03b"),
            b"h\x01h\x02Rh\x03b",
        ),
    ],
    ids=["encode", "OrderedDict", "array"],
)  # fmt: skip
def test_copies_of_the_same_contents_are_a_bomb(tmp_path: Path, copied: tuple[bytes, bytes]) -> None:
    first, again = copied
    foreign.read_pickle(written(tmp_path / "good.pkl", b"(" + first + b"t."))
    path = written(tmp_path / "x.pkl", b"(" + first + again * 1000 + b"t.")
    tracemalloc.start()
    assert refusal(foreign.read_pickle, path) == refused(path, "copies the same contents over and over")
    assert tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()


def test_long_bytes_are_copied_once(tmp_path: Path) -> None:
    value = b"x" * 100_000
    read = foreign.read_pickle(written(tmp_path / "x.pkl", pickle.dumps([value] * 100)))
    assert read == [value] * 100
    assert len({id(item) for item in read}) == 1


def test_copies_by_overlapping_entries_are_a_bomb(tmp_path: Path) -> None:
    """A thousand entries over the same megabyte of bfloat16, each of which would become two megabytes of float32."""
    path = saved(tmp_path / "archive.pth", torch.zeros(1 << 19, dtype=torch.bfloat16))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
        entry = archive.getinfo("archive/data/0")
        entries = [archive.getinfo("archive/data.pkl"), *([entry] * 1000)]
    directory = b"".join(
        struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, e.CRC, e.file_size, e.file_size, len(e.filename),
                    0, 0, 0, 0, 0, e.header_offset) + e.filename.encode()
        for e in entries
    )  # fmt: skip
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(entries), len(entries), len(directory), start, 0)
    path.write_bytes(data[:start] + directory + end)
    size, declared = path.stat().st_size, entries[0].file_size + 1000 * (1 << 20)
    assert refusal(foreign.read_torch, path) == (
        f"{path} must not unpack to more than 20 times its size, but {size} bytes would become {declared}; "
        "get the file from its authors."
    )


@pytest.mark.parametrize(
    "header",
    [
        "__import__('os').system('touch {marker}')",
        "{{'descr': __import__('os').system('touch {marker}'), 'fortran_order': False, 'shape': (3,)}}",
        "{{'descr': '<f8', 'fortran_order': False, 'shape': (-3,)}}",
        "{{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}}",
        "{{'descr': '<f8', 'fortran_order': False, 'shape': (4,)}}",
        "{{'descr': '<f8', 'fortran_order': False, 'shape': (10**9, 10**9)}}",
        "{{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 4000000000000, 0)}}",
        "{{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000,)}}",
        "(" * 9000,
        "-" * 9000 + "1",
        "[" * 9000 + "]" * 900,
    ],
)
def test_headers_of_npy_run_nothing(tmp_path: Path, header: str) -> None:
    marker = tmp_path / "ran"
    text = header.format(marker=marker).encode() + b"\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(24)
    path = written(tmp_path / "x.npy", data)
    with pytest.raises(UsageError) as caught:
        foreign.read_npy(path)
    assert str(caught.value).startswith(f"{path} must be a .npy file, but it cannot be read (")
    assert not marker.exists()


def test_an_encrypted_and_an_odd_archive(tmp_path: Path) -> None:
    path = saved(tmp_path / "archive.pth", torch.ones(2))
    bzip2 = rezipped(path, method=zipfile.ZIP_BZIP2)
    with pytest.raises(UsageError, match=r"the entry archive/.* is damaged"):
        foreign.read_torch(bzip2)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../data.pkl", b"N.")
        archive.writestr("/data.pkl.txt", b"N.")
    with pytest.raises(UsageError, match=r"it is a zip archive without data\.pkl"):
        foreign.read_torch(path)
    assert [inner.name for inner in tmp_path.iterdir()] == ["archive.pth"]


def test_damaged_bytes_never_end_in_anything_else(tmp_path: Path) -> None:
    """Flip bytes of good files: they are read, or refused with a sentence."""
    rng = np.random.default_rng(0)
    value = {"a": [torch.arange(6.0).reshape(2, 3).t(), torch.ones(2).bfloat16()], "b": (1, 2.5, b"\xff", "é", 2**70)}
    plain = {"a": [np.arange(6.0), np.array(["x", None], dtype=object)], "n": np.float32(1), 3: OrderedDict(a=1)}
    np.save(tmp_path / "object.npy", np.array(plain, dtype=object), allow_pickle=True)
    np.save(tmp_path / "plain.npy", np.arange(12.0).reshape(3, 4))
    files = [
        (foreign.read_torch, saved(tmp_path / "zip.pth", value)),
        (foreign.read_torch, rezipped(saved(tmp_path / "deflated.pth", value))),
        (foreign.read_torch, saved(tmp_path / "stream.pth", value, zipped=False)),
        (foreign.read_torch, old_tar(tmp_path / "tar.pth")),
        *((foreign.read_pickle, written(tmp_path / f"{p}.pkl", pickle.dumps(plain, p))) for p in (0, 2, 5)),
        (foreign.read_npy, tmp_path / "object.npy"),
        (foreign.read_npy, tmp_path / "plain.npy"),
    ]
    ended = {"read": 0, "refused": 0}
    for turn in range(100 * len(files)):
        read, path = files[turn % len(files)]
        data = np.frombuffer(path.read_bytes(), np.uint8).copy()
        places = rng.integers(data.size, size=rng.integers(1, 4))
        if turn % 3 == 0:  # most of the old tar and of the archive is padding
            places = rng.choice(np.flatnonzero(data), size=len(places))
        data[places] = rng.integers(256, size=len(places))
        cut = rng.integers(1, data.size) if turn % 10 == 0 else data.size
        try:
            read(written(tmp_path / "damaged", data[:cut].tobytes()))
            ended["read"] += 1
        except ZooError as error:
            ended["refused"] += str(error).startswith(f"{tmp_path / 'damaged'} must ")
    assert sum(ended.values()) == 100 * len(files)
    assert min(ended.values()) > 100, ended


def test_every_opcode_of_python_is_known() -> None:
    """A newer protocol shows here, not as a damaged file."""
    known = {*foreign._VALUES, *foreign._STEPS, pickle.STOP}
    assert {opcode.code.encode("latin1") for opcode in pickletools.opcodes} == known


# ---- TorchScript


class Scripted(nn.Module):
    """Parameters, buffers, a module in it, and attributes of every kind TorchScript knows."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.projection = nn.Parameter(torch.randn(4, 5).t())
        self.register_buffer("scale", torch.tensor(2.0))
        self.size: int = 7
        self.sides = [1, 2]
        self.pair = (1, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.features(x).mean((2, 3)) @ self.projection.t() * self.scale
        return out


def script(path: Path, pickled: bytes) -> Path:
    """An archive as ``torch.jit.save`` writes it, with this ``data.pkl``."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/constants.pkl", b"\x80\x02).")
        archive.writestr("archive/data/0", np.ones(2, np.float32).tobytes())
    return path


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("half", [False, True])
def test_a_module_of_torchscript_is_its_tensors(tmp_path: Path, half: bool) -> None:
    module = Scripted().half() if half else Scripted()
    path = tmp_path / "RN.pt"
    torch.jit.save(torch.jit.script(module), path)  # type: ignore[no-untyped-call]
    read = foreign.read_torch(path)
    assert set(read) == set(module.state_dict())
    for name, tensor in module.state_dict().items():
        assert str(tensor.dtype) == f"torch.{read[name].dtype}"
        np.testing.assert_array_equal(read[name], tensor.numpy())


MODULE = b"\x80\x02c__torch__.a.b\nNet\n)\x81}"
"""A module of the archive's own class, and the beginning of its attributes."""


def test_what_is_in_a_module_of_torchscript(tmp_path: Path) -> None:
    tensor = tensor_pickle()[2:-1]
    inner = b"c__torch__.torch.nn.modules.___torch_mangle_3.Conv2d\n".replace(b".Conv2d", b"\nConv2d") + b")\x81}"
    lists = b"ctorch.jit._pickle\nbuild_intlist\n(](K\x01K\x02etR"
    data = MODULE + b"(U\x01a" + tensor + b"U\x01n" + lists + b"U\x01m" + inner + b"U\x01w" + tensor + b"sbub."
    read = foreign.read_torch(script(tmp_path / "x.pt", data))
    assert {name: array.tolist() for name, array in read.items()} == {"a": [1, 1], "m.w": [1, 1]}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (MODULE + b"U\x01acposix\nsystem\nU\x02id\x85Rsb.", "names posix.system"),
        (MODULE + b"U\x01ac__torch__\nNet\nU\x02id\x85Rsb.", "calls __torch__.Net"),
        (MODULE + b"U\x01acos\n__torch__\nU\x02id\x85Rsb.", "names os.__torch__"),
        (MODULE + b"U\x01ac__torch__x\nNet\nsb.", "names __torch__x.Net"),
        (MODULE + b"U\x01ac__torch__\n\x1b[2J\nsb.", r"names __torch__.\x1b[2J"),
        (MODULE + b"U\x01actorch.jit._pickle\neval\nU\x02id\x85Rsb.", "names torch.jit._pickle.eval"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "makes collections.OrderedDict"),
    ],
)
def test_what_a_torchscript_file_must_not_name(tmp_path: Path, data: bytes, what: str) -> None:
    path = script(tmp_path / "x.pt", data)
    assert refusal(foreign.read_torch, path) == refused(path, what)


def test_only_torchscript_has_classes_of_its_own(tmp_path: Path) -> None:
    path = rezipped(saved(tmp_path / "archive.pth", torch.ones(2)), MODULE + b"b.")
    assert refusal(foreign.read_torch, path) == refused(path, "names __torch__.a.b.Net")


def test_modules_of_the_same_modules_are_a_bomb(tmp_path: Path) -> None:
    """Forty levels, each holding the one below twice: 2**40 names of one tensor."""
    start, level = b"c__torch__\nNet\n)\x81}", b"q\x010c__torch__\nNet\n)\x81}(U\x01ah\x01U\x01bh\x01ub"
    data = b"\x80\x02" + start + b"U\x01t" + tensor_pickle()[2:-1] + b"sb" + level * 40 + b"."
    path = script(tmp_path / "x.pt", data)
    assert refusal(foreign.read_torch, path) == refused(path, "copies the same contents over and over")
