"""The reader of the published file against protobuf, TensorBoard's writer, and bytes put together by hand."""

from __future__ import annotations

import base64
import json
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow  # type: ignore[import-untyped]

from supernet.errors import SupernetError
from supernet.nasbench101 import Evaluation, Record, Spec, gather, read_records
from supernet.nasbench101.records import MAX_RECORD_BYTES, crc32c, masked_crc32c, parse_record, read_frames
from tests.nasbench101_writer import metrics, payload, training, write

EMPTY = "043721b9c7fe8c5fad811d47d83132ec"
INCEPTION = Spec(
    "0111010 0000001 0000001 0000100 0000001 0000001 0000000",
    "input,conv1x1,conv3x3,conv3x3,conv3x3,maxpool3x3,output",
)
WELL = training(INCEPTION, 36, random.Random(0))

# 882,570 is 53 * 128^2 + 111 * 128 + 10; then 0.25, 0.5, 1, 1.5, 2 and 108 as doubles.
GOLDEN_METRICS = bytes.fromhex(
    "0a 09" "29 000000000000d03f"
    "0a 1b" "11 000000000000f03f" "19 000000000000e03f" "21 000000000000d03f"
    "0a 30" "09 0000000000005b40" "11 0000000000000040" "19 000000000000f03f" "21 000000000000e03f"
    "29 000000000000d03f" "32 01 78"
    "10 8a ef 35"
    "19 000000000000f83f"
)  # fmt: skip
GOLDEN = b'["%s", 108, "0100", "input,output", "%s"]' % (EMPTY.encode(), base64.b64encode(GOLDEN_METRICS))


def framed(data: bytes, length: int | None = None) -> bytes:
    """A record with right checksums, whatever it says of its length."""
    head = struct.pack("<Q", len(data) if length is None else length)
    return b"".join([head, struct.pack("<I", masked_crc32c(head)), data, struct.pack("<I", masked_crc32c(data))])


def test_a_record_made_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "golden"
    path.write_bytes(bytes.fromhex("d100000000000000 9fc921d9") + GOLDEN + bytes.fromhex("de71e924"))
    assert list(read_records(path)) == [
        Record(
            EMPTY, 108, "0100", "input,output", 882_570,
            (Evaluation(0, 0, 0, 0, 0.25), Evaluation(0, 1, 0.5, 0.25, 0), Evaluation(108, 2, 1, 0.5, 0.25)),
        )
    ]  # fmt: skip


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_checksum_is_that_of_tensorboard(data: bytes) -> None:
    assert crc32c(data) == pywrap_tensorflow.crc32c(data)
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)


accuracies = st.floats(0, 1)
evaluations = st.tuples(*[st.builds(Evaluation, st.floats(0, 108), st.floats(0, 1e5), *[accuracies] * 3)] * 3)


@given(evaluations, st.integers(1, 2**31 - 1), st.sampled_from([4, 12, 36, 108]), st.sampled_from(["proto2", "proto3"]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_what_protobuf_writes_is_read(moments: Any, params: int, epochs: int, syntax: str) -> None:
    record = WELL._replace(evaluations=moments, params=params, epochs=epochs)
    assert parse_record(payload(record, syntax)) == record
    assert record.spec == INCEPTION


def test_records_are_read_in_their_order_with_their_bytes_counted(tmp_path: Path) -> None:
    rng = random.Random(3)
    records = [training(INCEPTION, epochs, rng) for epochs in (4, 108, 12, 4)]
    path, counts = write(tmp_path / "many", map(payload, records)), list[int]()
    assert list(read_records(path, counts.append)) == records
    assert sum(counts) == path.stat().st_size
    assert list(read_records(write(tmp_path / "none", []))) == []


def changed(position: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (changed(0), "the checksum of its length is wrong"),
        (changed(9), "the checksum of its length is wrong"),
        (changed(40), "the checksum of its data is wrong"),
        (changed(-1 - 3), "the checksum of its data is wrong"),
        (lambda data: data[:5], "it is cut off after 5 of the 12 bytes of its head"),
        (lambda data: data[:12], r"it is cut off after 0 of its \d+ bytes"),
        (lambda data: data[:-2], r"it is cut off after (\d+) of its \1 bytes"),
        (lambda data: data[:100], r"it is cut off after 88 of its \d+ bytes"),
        (lambda data: framed(b"x", 2**63), "it has 9,223,372,036,854,775,808 bytes"),
        (lambda data: framed(b"x" * (MAX_RECORD_BYTES + 1)), "it has 65,537 bytes, and one of this table 65,536 at"),
    ],
)
def test_a_spoilt_file_is_refused_with_the_number_of_the_record(
    spoil: Callable[[bytes], bytes], reason: str, tmp_path: Path
) -> None:
    good = framed(payload(WELL))
    path = tmp_path / "spoilt"
    path.write_bytes(good + spoil(good))
    records = read_records(path)
    assert next(records) == WELL
    with pytest.raises(SupernetError, match=rf"^record 2 of \S+spoilt: {reason}"):
        next(records)


def as_json(**parts: Any) -> bytes:
    fields = {"hash": EMPTY, "epochs": 108, "adjacency": "0100", "ops": "input,output",
              "figures": base64.b64encode(GOLDEN_METRICS).decode()} | parts  # fmt: skip
    return json.dumps(list(fields.values())).encode()


def with_metrics(message: bytes) -> bytes:
    return as_json(figures=base64.b64encode(message).decode())


ONE_EVALUATION = GOLDEN_METRICS[:11]
NOT_A_NUMBER = b"\x0a\x09\x29" + struct.pack("<d", float("nan"))
NEGATIVE_TIME = b"\x0a\x09\x11" + struct.pack("<d", -1.0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "its data is no JSON"),
        (b"\xff\xfe", "its data is no JSON"),
        (b"[" * 60_000, "its data is no JSON"),
        (b"[1", "its data is no JSON"),
        (b"{}", "its JSON is the list .* got {}"),
        (b"[]", r"its JSON is the list .* got \[\]"),
        (b"3", "its JSON is the list .* got 3"),
        (as_json(more=1), "its JSON is the list"),
        (as_json(epochs=True), "its JSON is the list"),
        (as_json(epochs=108.0), "its JSON is the list"),
        (as_json(hash=None), "its JSON is the list"),
        (as_json(epochs=200), "are of 4, 12, 36, 108 epochs, got 200"),
        (as_json(epochs=10**4_000), "are of 4, 12, 36, 108 epochs, got 1000"),
        (as_json(figures="?"), "its figures are no base64"),
        (as_json(figures="é"), "its figures are no base64"),
        (as_json(figures=""), "a training has 3 evaluations, got 0"),
        (with_metrics(ONE_EVALUATION), "a training has 3 evaluations, got 1"),
        (with_metrics(ONE_EVALUATION * 400 + b"\x10\x01"), r"a training has 3 evaluations, got 4\+"),
        (with_metrics(ONE_EVALUATION * 3), "from 1 to 2,147,483,647 parameters, got 0"),
        (with_metrics(ONE_EVALUATION * 3 + b"\x10" + b"\xff" * 9 + b"\x01"), "parameters, got 18,446,744,073,709,551,"),
        (with_metrics(GOLDEN_METRICS[:-1]), "no protocol buffer: a field of 8 bytes where 7 are left"),
        (with_metrics(b"\x0a\xff\xff\xff\xff\x0f"), "a field of 4294967295 bytes where 0 are left"),
        (with_metrics(b"\x0a"), "an integer that does not end"),
        (with_metrics(b"\x10" + b"\x80" * 20), "an integer that does not end"),
        (with_metrics(b"\x0b"), "a field of the unknown kind 3"),
        (with_metrics(NOT_A_NUMBER), "accuracies from 0 to 1, got .*nan"),
        (with_metrics(NEGATIVE_TIME), r"seconds from 0 and .*seconds=-1\.0"),
    ],
)  # fmt: skip
def test_data_that_is_no_training_is_refused_with_the_number_of_the_record(
    data: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad"
    path.write_bytes(framed(GOLDEN) * 2 + framed(data))
    with pytest.raises(SupernetError, match=rf"^record 3 of \S+bad: .*{reason}"):
        list(read_records(path))


def test_a_claimed_length_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "claims"
    path.write_bytes(framed(b"", 2**40))
    tracemalloc.start()
    with pytest.raises(SupernetError, match="it has 1,099,511,627,776 bytes"):
        list(read_frames(path))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", Path("/dev/zero")):
        with pytest.raises(SupernetError, match=f"^cannot read {path}"):
            list(read_frames(path))


def test_no_changed_byte_of_a_record_ends_in_a_traceback(tmp_path: Path) -> None:
    rng, path, outcomes = random.Random(1), tmp_path / "fuzzed", set()
    message = metrics(WELL)
    for _ in range(400):
        spoilt = bytearray(message if rng.random() < 0.5 else payload(WELL))
        of_message = len(spoilt) == len(message)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(spoilt))
            spoilt[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        data = payload(WELL).replace(base64.b64encode(message), base64.b64encode(spoilt)) if of_message else spoilt
        path.write_bytes(framed(bytes(data)))
        try:
            gather(read_records(path))
            outcomes.add("read")
        except SupernetError as error:
            outcomes.add(str(error).split(": ", 1)[-1].split(",")[0][:12])
    assert "read" in outcomes  # a figure may be another one
    assert len(outcomes) > 6
