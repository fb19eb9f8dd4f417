from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zoo.errors import IntegrityError, MissingError
from zoo.models.convert.tf_checkpoint import checkpoint_files, masked_crc32c, read_tf_checkpoint

BundleWriter = Callable[..., Path]
TENSORS = {
    "layer/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "layer/kernel_2": np.arange(6, dtype=np.float64).reshape(1, 2, 3),
    "layer/half": np.array([0.5, -2.0], dtype=np.float16),
    "flags": np.array([True, False]),
    "small": np.array([-3], dtype=np.int8),
    "iter": np.array(430760, dtype=np.int64),
    "step": np.array(-1, dtype=np.int32),
    "wide": np.array(2**63, dtype=np.uint64),
    "empty": np.zeros((0, 5), dtype=np.float32),
}


def name(key: str) -> str:
    return f"{key}/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.mark.parametrize(("rows_per_block", "n_shards"), [(100, 1), (2, 1), (3, 3)])
def test_what_was_written_is_read(
    tmp_path: Path, write_bundle: BundleWriter, rows_per_block: int, n_shards: int
) -> None:
    prefix = write_bundle(tmp_path / "ckpt-7", TENSORS, rows_per_block=rows_per_block, n_shards=n_shards)
    read = read_tf_checkpoint(prefix)
    assert list(read) == sorted(map(name, TENSORS))  # the string tensor of the object graph is not among them
    for key, value in TENSORS.items():
        np.testing.assert_array_equal(read[name(key)], value, strict=True)
    assert [path.name for path in checkpoint_files(prefix)] == [
        "ckpt-7.index",
        *(f"ckpt-7.data-{shard:05d}-of-{n_shards:05d}" for shard in range(n_shards)),
    ]


@pytest.mark.parity
def test_the_released_encoder_is_read_exactly(shared: Path) -> None:
    read = read_tf_checkpoint(shared / "data/licensed/eeg2image_triplenet/ckpt-2420")
    with np.load(shared / "fixtures/eeg2image_encoder_ckpt2420.npz") as wanted:
        assert sorted(read) == sorted(wanted.files)
        assert len(read) == 25
        for key in wanted.files:
            np.testing.assert_array_equal(read[key], wanted[key], strict=True)


def test_checksum_is_the_masked_one() -> None:
    # RFC 3720, B.4: CRC-32C of 32 zero bytes is 0x8A9136AA
    crc = 0x8A9136AA
    assert masked_crc32c(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def test_every_damaged_byte_of_a_tensor_is_noticed(tmp_path: Path, write_bundle: BundleWriter) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", {"w": np.ones(3, dtype=np.float32)})
    path = tmp_path / "ckpt-1.data-00000-of-00001"
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        message = f"the bytes of {name('w')} in {path.name} do not match their checksum; get the checkpoint again."
        with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
            read_tf_checkpoint(prefix)


def test_no_damaged_byte_of_the_index_changes_what_is_read(tmp_path: Path, write_bundle: BundleWriter) -> None:
    weights = np.ones(3, dtype=np.float32)
    prefix = write_bundle(tmp_path / "ckpt-1", {"w": weights})
    path = tmp_path / "ckpt-1.index"
    good, noticed = path.read_bytes(), 0
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :])
        try:
            read = read_tf_checkpoint(prefix)
        except IntegrityError:
            noticed += 1
        else:
            assert list(read) == [name("w")]
            np.testing.assert_array_equal(read[name("w")], weights, strict=True)
    assert noticed > len(good) - 60  # the meta block and the padding of the footer carry nothing


@pytest.mark.parametrize("keep", [0, 7, 47, 60, -1])
def test_a_truncated_index_is_refused(tmp_path: Path, write_bundle: BundleWriter, keep: int) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", TENSORS)
    path = tmp_path / "ckpt-1.index"
    path.write_bytes(path.read_bytes()[:keep])
    message = (
        "ckpt-1.index must end with the mark of a TensorFlow checkpoint index, but does not; "
        "it is another kind of file or was cut short."
    )
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        read_tf_checkpoint(prefix)


def test_an_index_without_its_beginning_is_refused(tmp_path: Path, write_bundle: BundleWriter) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", TENSORS)
    path = tmp_path / "ckpt-1.index"
    path.write_bytes(path.read_bytes()[-50:])
    message = "ckpt-1.index points past its own end; it was cut short: get the checkpoint again."
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        read_tf_checkpoint(prefix)


def test_a_truncated_shard_is_refused(tmp_path: Path, write_bundle: BundleWriter) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", {"w": np.ones(3, dtype=np.float32)})
    path = tmp_path / "ckpt-1.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:11])
    message = (
        f"{path.name} must reach byte 12 for {name('w')}, but ends at 11; it was cut short: get the checkpoint again."
    )
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        read_tf_checkpoint(prefix)


@pytest.mark.parametrize("missing", ["ckpt-1.index", "ckpt-1.data-00001-of-00002"])
def test_a_missing_file_is_named(tmp_path: Path, write_bundle: BundleWriter, missing: str) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", TENSORS, n_shards=2)
    (tmp_path / missing).unlink()
    message = f"a TensorFlow checkpoint needs {missing}, which {tmp_path} does not hold; copy it there."
    with pytest.raises(MissingError, match=f"^{re.escape(message)}$"):
        read_tf_checkpoint(prefix)


def test_a_compressed_block_is_refused(tmp_path: Path, write_bundle: BundleWriter) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", TENSORS, kind=1)
    message = (
        "blocks of ckpt-1.index must be uncompressed, as TensorFlow writes them, but one has compression 1; "
        "save the checkpoint with TensorFlow again."
    )
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        read_tf_checkpoint(prefix)


def test_a_sliced_tensor_is_refused(tmp_path: Path, write_bundle: BundleWriter) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", {"w": np.ones(3, np.float32)}, extra_field=b"\x3a\x00")
    message = f"{name('w')} in ckpt-1.index is stored in slices, which is not supported; save it whole."
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        read_tf_checkpoint(prefix)


def test_an_unknown_dtype_is_refused(tmp_path: Path, write_bundle: BundleWriter) -> None:
    complex64 = b"\x08\x08"  # the last value of a repeated scalar field counts
    prefix = write_bundle(tmp_path / "ckpt-1", {"w": np.ones(3, np.float32)}, extra_field=complex64)
    message = f"{name('w')} in ckpt-1.index has TensorFlow dtype 8, which is neither numeric nor string."
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        read_tf_checkpoint(prefix)


def test_a_shape_that_does_not_fit_its_bytes_is_refused(tmp_path: Path, write_bundle: BundleWriter) -> None:
    float64 = b"\x08\x02"
    prefix = write_bundle(tmp_path / "ckpt-1", {"w": np.ones(3, np.float32)}, extra_field=float64)
    message = (
        f"{name('w')} in ckpt-1.data-00000-of-00001 has shape (3,) of float64, but 12 bytes; get the checkpoint again."
    )
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        read_tf_checkpoint(prefix)


def test_a_big_endian_checkpoint_is_refused(tmp_path: Path, write_bundle: BundleWriter) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", TENSORS, endianness=1)
    message = "ckpt-1.index must be little-endian, but says it is not; save it on another machine."
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        read_tf_checkpoint(prefix)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.index").write_text("Chapter one. " * 20)
    message = (
        "notes.index must end with the mark of a TensorFlow checkpoint index, but does not; "
        "it is another kind of file or was cut short."
    )
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        read_tf_checkpoint(tmp_path / "notes")
