"""Writes files as the published one of NAS-Bench-101, with protobuf and TensorBoard's record writer."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from supernet.nasbench101 import EPOCHS, Evaluation, Record, Spec, num_parameters

FIELDS = {
    "EvaluationData": [
        ("current_epoch", "DOUBLE"), ("training_time", "DOUBLE"), ("train_accuracy", "DOUBLE"),
        ("validation_accuracy", "DOUBLE"), ("test_accuracy", "DOUBLE"), ("checkpoint_path", "STRING"),
    ],
    "ModelMetrics": [("evaluation_data", "MESSAGE"), ("trainable_parameters", "INT32"), ("total_time", "DOUBLE")],
}  # fmt: skip


def _messages(syntax: str) -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name=f"metrics_{syntax}.proto", package=syntax, syntax=syntax)
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, start=1):
            added = message.field.add(name=field, number=number, type=f"TYPE_{kind}", label="LABEL_OPTIONAL")
            if kind == "MESSAGE":
                added.label, added.type_name = added.LABEL_REPEATED, f".{syntax}.EvaluationData"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{syntax}.{name}")) for name in FIELDS}


MESSAGES = {syntax: _messages(syntax) for syntax in ("proto2", "proto3")}
"""The first writes fields that are zero, the second leaves them out."""


def metrics(record: Record, syntax: str = "proto2") -> bytes:
    """The figures of a record as a protocol buffer, with the fields that nobody reads."""
    types = MESSAGES[syntax]
    message = types["ModelMetrics"](trainable_parameters=record.params, total_time=1234.5)
    for values in record.evaluations:
        names = [field for field, _ in FIELDS["EvaluationData"]]
        message.evaluation_data.append(
            types["EvaluationData"](**dict(zip(names, (*values, "checkpoints/model.ckpt"), strict=True)))
        )
    return bytes(message.SerializeToString())


def payload(record: Record, syntax: str = "proto2") -> bytes:
    """The data of a record."""
    figures = base64.b64encode(metrics(record, syntax)).decode()
    return json.dumps([record.hash, record.epochs, record.adjacency, record.operations, figures]).encode()


def write(path: Path, payloads: Iterable[bytes]) -> Path:
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for data in payloads:
            writer.write(data)
    return path


def training(spec: Spec, epochs: int, rng: random.Random) -> Record:
    """A training of a pruned cell, with figures out of thin air: accuracies in 9984ths, as published."""
    half, end = sorted(rng.uniform(10, 5000) for _ in range(2))
    accuracies = [[rng.randrange(9985) / 9984 for _ in range(3)] for _ in range(3)]
    moments = zip((0.0, epochs / 2, float(epochs)), (0.0, half, end), accuracies, strict=True)
    return Record(
        spec.hash, epochs, "".join(str(bit) for row in spec.matrix for bit in row), ",".join(spec.ops),
        num_parameters(spec), tuple(Evaluation(epoch, seconds, *three) for epoch, seconds, three in moments),
    )  # fmt: skip


def trainings(specs: Iterable[Spec], seed: int, budgets: tuple[int, ...] = EPOCHS) -> list[Record]:
    """Three trainings of each cell at each budget, in any order."""
    rng = random.Random(seed)
    found = [training(spec, epochs, rng) for spec in specs for epochs in budgets for _ in range(3)]
    rng.shuffle(found)
    return found
