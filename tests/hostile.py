"""Hostile input for every parser, tried in a process of its own whose memory and time are limited.

``python -m tests.hostile CHECKPOINT FOLDER [SECONDS]`` prints a line of JSON for every attack, and one for every
fuzzer with the number of inputs that it tried: a fixed number, or as many as the seconds allow.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import json
import os
import pickle
import pickletools
import random
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from supernet.benchmark import COLUMN_NAMES, open_table
from supernet.benchmark.archives import read_cell_file, read_file
from supernet.cli import configuration, derive, search
from supernet.cli.checkpoint import build_search, progress, read_checkpoint, recorded_genotype
from supernet.cli.runs import first_difference
from supernet.data.imagenet16 import load_part
from supernet.data.images import describe
from supernet.errors import SupernetError
from supernet.genotype import Genotype, edge_list
from tests.archives import cell as published_cell

MEMORY_BYTES, SECONDS_EACH = 2**30, 10
"""What all attacks together may take beyond the libraries; and how long each of them may last."""

ROOT = Path(__file__).resolve().parents[1]
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|skip_connect~1|nor_conv_1x1~2|"
NETWORK = ["--model.channels", "2", "--model.num_cells", "1"]
MARKER = "executed"


class Run:
    """What a pickle must not do."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {MARKER}",)


# What a file may be instead of a file


def pipe(name: str) -> str:
    os.mkfifo(name)
    return name


def link(to: str, name: str) -> str:
    os.symlink(to, name)
    return name


def huge(name: str) -> str:
    """A file of a terabyte, without anything in it."""
    with Path(name).open("wb") as file:
        file.truncate(2**40)
    return name


def large(name: str, num_bytes: int = 5 * 10**6, begin: bytes = b"") -> str:
    Path(name).write_bytes(begin + b" " * num_bytes)
    return name


def written(name: str, content: bytes | str) -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return name


# Configurations


def laughs(levels: int = 12) -> str:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int = 30) -> str:
    return "\n".join(["l0: &l0 {a: 1}"] + [f"l{i}: &l{i} {{<<: [*l{i - 1}, *l{i - 1}]}}" for i in range(1, levels)])


CONFIGURATIONS: dict[str, str | bytes] = {
    "references that multiply": laughs(),
    "references as values of an option": "model:\n  space:\n    ops: *a\n" + laughs(),
    "references that are merged": merges(),
    "a list in itself": "model: &a [*a]",
    "an object in itself": "model: &a {space: *a}",
    "lists in lists": "[" * 100_000,
    "closed lists in lists": "model: " + "[" * 900 + "]" * 900,
    "objects in objects": "model: " + "{a: " * 900 + "}" * 900,
    "lists in lists by lines": "- " * 100_000,
    "a tag of Python": "model: !!python/object/apply:os.system ['touch executed']",
    "a tag of an object": "model: !!python/object/new:os.system ['touch executed']",
    "a tag of YAML": "model: !!bool maybe",
    "a date that is none": "model: {channels: !!timestamp 2001-99-99}",
    "a number of many digits": "model: {channels: " + "9" * 9_000 + "}",
    "a hexadecimal number of many digits": "model: {channels: 0x" + "f" * 9_000 + "}",
    "a number to the base of sixty": "model: {channels: " + "59:" * 300_000 + "1}",
    "many values": "model: [" + "1," * 20_000 + "]",
    "a long file": "# " + "x" * 2**21,
    "no text": bytes(range(256)),
    "text of another coding": "model: {channels: ü}".encode("utf-16"),
    "keys that are no text": "1: 2\nnull: 3\n[a]: 4",
    "a key that is a list": "? [a, b]\n: 1",
    "several documents": "a: 1\n---\nb: 2",
    "a control character": "model: \x07",
    "half a pair of letters": "model: '\ud800'",
    "nothing where a group should be": "model: 5\ndata: []",
    "a wide network": "model: {channels: 1000000}",
    "a deep network": "model: {num_cells: 1000000000}",
    "a pipe for a group": "model: pipe",
    "a huge file for a group": "model: huge",
    "a huge file for a strategy": "model: {search: huge}",
    "a device for a group": "model: /dev/zero",
    "too many nodes": "model: {space: {num_nodes: 100000}}",
    "far too many nodes": "model: {space: {num_nodes: 100000000000000000000}}",
}


ARGUMENTS: dict[str, Callable[[], list[str]]] = {
    "a huge configuration": lambda: ["--config", "huge"],
    "a device for a configuration": lambda: ["--config", "/dev/zero"],
    "a huge group": lambda: ["--model", "huge"],
    "a huge group in one word": lambda: ["--data=huge"],
    "a pipe for a group": lambda: ["--model", "pipe"],
    "a pipe for a part of a group": lambda: ["--model.space", "pipe"],
    "a huge file for a strategy": lambda: ["--model.search", "huge"],
    "references on the command line": lambda: ["--model.space", "{" + laughs().replace("\n", ", ") + "}"],
    "lists in lists on the command line": lambda: ["--model.arch_betas", "[" * 50_000],
    "a name that breaks the line": lambda: ["--data.name", "folder", "--data.root", "no\nwhere\x1b[2J"],
    "a name that is no text": lambda: ["--data.name", "folder", "--data.root", "no\udcffwhere"],
    "huge images": lambda: ["--data.name", "folder", "--data.root", ".", "--data.image_size", "1000000000"],
}


# Cells

GENOTYPES: dict[str, Callable[[], str]] = {
    "a pipe": lambda: pipe("cell.json"),
    "a device": lambda: "/dev/zero",
    "the terminal": lambda: "/dev/stdin",
    "a folder": lambda: ".",
    "a huge file": lambda: huge("cell.json"),
    "a long file": lambda: large("cell.json", begin=Genotype.parse(CELL).to_json().encode()),
    "a link to itself": lambda: link("cell.json", "cell.json"),
    "lists in lists": lambda: written("cell.json", '{"edges":' + "[" * 100_000),
    "lists in lists, not too deep": lambda: written(
        "cell.json", f'{{"genotype": "{CELL}", "edges": {"[" * 900}{"]" * 900}}}'
    ),
    "a key that is there twice": lambda: written("cell.json", f'{{"genotype": "x", "genotype": "{CELL}"}}'),
    "half a pair of letters": lambda: written("cell.json", '{"genotype": "|\\ud800~0|"}'),
    "a number of many digits": lambda: written("cell.json", f'{{"genotype": "{CELL}", "index": {"1" * 9_000}}}'),
    "no number": lambda: written("cell.json", f'{{"genotype": "{CELL}", "index": NaN}}'),
    "an endless number": lambda: written("cell.json", f'{{"genotype": "{CELL}", "index": 1e999}}'),
    "a list of itself": lambda: written("cell.json", pickle.dumps(Run())),
    "a long string": lambda: "|a~0|" + "+|a~0|" * 20_000,
    "a string of bars": lambda: "|" * 100_000,
    "an unknown operation": lambda: CELL.replace("none", "x" * 60_000),
    "an operation that moves the cursor": lambda: CELL.replace("none", "\x1b[2J"),
    "an index of many digits": lambda: "9" * 100_000,
    "a path of many letters": lambda: "x" * 100_000,
    "a path that breaks the line": lambda: "no\nwhere",
    "a path with a zero": lambda: "no\0where",
}


# Checkpoints

Record = dict[str, Any]


def archive(pickled: bytes, compress: int = zipfile.ZIP_STORED, **more: bytes) -> str:
    """An archive as PyTorch writes them, around any pickle."""
    with zipfile.ZipFile("hostile.ckpt", "w", compress) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", b"3\n")
        for name, content in more.items():
            file.writestr(f"archive/{name.replace('_', '/')}", content)
    return "hostile.ckpt"


def made(module: str, name: str, *values: int) -> bytes:
    """A pickle that calls a function with numbers."""
    numbers = b"".join(b"\x8a\x09" + value.to_bytes(9, "little") for value in values)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + numbers + b"tR."


def tensor(kind: str, length: int, start: int, shape: tuple[int, ...], strides: tuple[int, ...], num_bytes: int) -> str:
    """A checkpoint of one tensor that is described in any way."""

    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def sizes(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text("0") + text("cpu") + number(length) + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(start) + sizes(shape) + sizes(strides)
    raw = b"\x80\x02}" + text("x") + rebuilt + b"\x89ccollections\nOrderedDict\n)RtRs."
    return archive(raw, data_0=bytes(num_bytes))


DOUBLED = b")q\x00" + b"h\x00\x86q\x00" * 60
"""A tuple of two times the tuple before, sixty times: small, and it takes for ever to hash."""

TENSORS: dict[str, Callable[[], str]] = {
    "a shape beyond its bytes": lambda: tensor("FloatStorage", 4, 0, (10**12,), (1,), 16),
    "one value a million times": lambda: tensor("FloatStorage", 4, 0, (10**6, 10**6), (0, 0), 16),
    "a beginning beyond its bytes": lambda: tensor("FloatStorage", 4, 4, (1,), (1,), 16),
    "a beginning before its bytes": lambda: tensor("FloatStorage", 4, -1, (1,), (1,), 16),
    "steps backwards": lambda: tensor("FloatStorage", 4, 0, (2,), (-1,), 16),
    "a length beyond its bytes": lambda: tensor("FloatStorage", 10**12, 0, (10**12,), (1,), 16),
    "a length below nothing": lambda: tensor("FloatStorage", -4, 0, (1,), (1,), 16),
    "many dimensions": lambda: tensor("FloatStorage", 4, 0, (1,) * 5_000, (1,) * 5_000, 16),
    "another number of steps": lambda: tensor("FloatStorage", 4, 0, (1, 1), (1,), 16),
    "an unknown kind": lambda: tensor("QInt8Storage", 4, 0, (1,), (1,), 4),
}

PICKLES: dict[str, bytes] = {
    "a key that hashes for ever": b"\x80\x02}" + DOUBLED + b"Ns.",
    "a key of a million levels": b"\x80\x02})" + b"\x85" * 10**6 + b"Ns.",
    "many bytes": made("__builtin__", "bytearray", 10**12),
    "a tensor of nothing": made("torch", "FloatTensor", 10**6, 10**7),
    "a set of what hashes for ever": b"\x80\x02c__builtin__\nset\n]" + DOUBLED + b"a\x85R.",
    "a slow coding": b"\x80\x02c_codecs\nencode\nX" + struct.pack("<I", 3 * 10**6)
    + "".join(map(chr, range(0x4E00, 0x5200))).encode() * 976 + b"\0" * 1_536 + b"X\x08\0\0\0punycode\x86R.",
    "a call": pickle.dumps(Run(), 2),
    "a call in a later protocol": pickle.dumps({"supernet": Run()}, 4),
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "an object in itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "lists in lists": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    "lists that multiply": b"\x80\x02]q\x00" + b"](" + b"h\x00" * 10 + b"eq\x00" * 1
    + b"".join(b"](" + b"h\x00" * 10 + b"eq\x00" for _ in range(12)) + b".",
    "many instructions": b"\x80\x02(" + b"}" * 3 * 10**6 + b"l.",
    "a number of many digits": b"\x80\x02}X\x08\x00\x00\x00supernet\x8a\xff" + b"\x7f" * 255 + b"s.",
    "another protocol": b"\x80\x05}.",
    "a second beginning": b"\x80\x02}\x80\x09.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "a number": b"\x80\x02K\x05.",
}  # fmt: skip


def zipped_zeros() -> str:
    return archive(b"\x80\x02}.", zipfile.ZIP_DEFLATED, data_0=bytes(10**8))


def claimed_size() -> str:
    path = Path(archive(b"\x80\x02}.", data_0=b"12345678"))
    raw = path.read_bytes().replace(struct.pack("<II", 8, 8), struct.pack("<II", 2**31, 2**31))
    path.write_bytes(raw)
    return str(path)


def the_same_twice() -> str:
    with zipfile.ZipFile("hostile.ckpt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
        file.writestr("archive/DATA.PKL", PICKLES["many bytes"])
    return "hostile.ckpt"


def before_the_archive() -> str:
    path = Path(archive(b"\x80\x02}."))
    path.write_bytes(path.read_bytes() + Path(archive(PICKLES["many bytes"])).read_bytes())
    return str(path)


def saved(value: Any, **options: Any) -> str:
    torch.save(value, "hostile.ckpt", **options)
    return "hostile.ckpt"


FILES: dict[str, Callable[[], str]] = {
    "a pipe": lambda: pipe("hostile.ckpt"),
    "a device": lambda: "/dev/zero",
    "the terminal": lambda: "/dev/stdin",
    "a folder": lambda: ".",
    "a huge file": lambda: huge("hostile.ckpt"),
    "a path with a zero": lambda: "no\0where",
    "a path that breaks the line": lambda: "no\nwhere",
    "packed zeros": zipped_zeros,
    "sizes that are not there": claimed_size,
    "two lists of values": the_same_twice,
    "two archives": before_the_archive,
    "the old format": lambda: saved({"supernet": {}}, _use_new_zipfile_serialization=False),
    "a tensor without values": lambda: saved({"x": torch.empty(10**12, device="meta")}),
    "a sparse tensor": lambda: saved({"x": torch.eye(2).to_sparse()}),
    "a tensor of complex numbers": lambda: saved({"x": torch.zeros(2, dtype=torch.complex64)}),
    "an expanded tensor": lambda: saved({"x": torch.zeros(1).expand(10**12)}),
}


def edited(genuine: str, edit: Callable[[Record], object]) -> str:
    checkpoint = torch.load(genuine, weights_only=True)
    edit(checkpoint)
    return saved(checkpoint)


def hyper(**values: Any) -> Callable[[Record], object]:
    return lambda checkpoint: checkpoint["hyper_parameters"].update(values)


def images(**values: Any) -> Callable[[Record], object]:
    return lambda checkpoint: checkpoint["datamodule_hyper_parameters"].update(values)


def told(**values: Any) -> Callable[[Record], object]:
    return lambda checkpoint: checkpoint["supernet"].update(values)


def strategy(**init_args: Any) -> Callable[[Record], object]:
    return hyper(search={"class_path": "supernet.strategies.GDAS", "init_args": init_args})


NESTED: list[Any] = []
for _ in range(90):
    NESTED = [NESTED]


def unconnected(checkpoint: Record) -> None:
    """A search of many nodes, none of whose likely cells lets the input through."""
    logits = torch.zeros(120, 2)
    logits[[edge for edge, (_, source) in enumerate(edge_list(16)) if source == 0], 1] = -1e9
    hyper(space={"num_nodes": 16, "ops": ["none", "skip_connect"]})(checkpoint)
    state = checkpoint["state_dict"]
    for name in [name for name in state if ".convolutions." in name]:
        del state[name]
    state["search.logits"] = logits


EDITS: dict[str, Callable[[Record], object]] = {
    "a wide network": hyper(channels=10**6),
    "a wider network": hyper(channels=10**18),
    "a deep network": hyper(num_cells=10**9),
    "a negative network": hyper(num_cells=-1),
    "many classes": hyper(num_classes=10**10),
    "many nodes": hyper(space={"num_nodes": 16, "ops": ["none", "nor_conv_5x5"]}),
    "too many nodes": hyper(space={"num_nodes": 10**9, "ops": ["none", "nor_conv_3x3"]}),
    "no space": hyper(space=5),
    "a pipe for a space": lambda checkpoint: hyper(space=pipe("space"))(checkpoint),
    "a huge file for a space": lambda checkpoint: hyper(space=huge("space"))(checkpoint),
    "a pipe for a strategy": lambda checkpoint: hyper(search=pipe("search"))(checkpoint),
    "a pipe in a strategy": lambda checkpoint: strategy(tau_max=pipe("tau"))(checkpoint),
    "another option of a strategy": strategy(nothing=3),
    "text in a strategy": strategy(tau_max="warm"),
    "endless candidates": strategy(top_k=10**15),
    "cells that are not connected": unconnected,
    "a strategy that is none": hyper(search={"class_path": "os.system", "init_args": {"command": f"touch {MARKER}"}}),
    "a strategy without a name": hyper(search={"class_path": 5}),
    "a list for a number": hyper(channels=[2]),
    "large images": hyper(image_shape=[10**9, 10**9, 10**9]),
    "no images": hyper(image_shape=None),
    "an endless rate": hyper(network_lr=float("inf"), grad_clip=float("nan")),
    "another builder": hyper(_instantiator="os.system"),
    "another class": hyper(_class_path="os.system"),
    "an older place for options": lambda checkpoint: checkpoint.update(hparams={"_instantiator": "os.system"}),
    "an older kind of options": lambda checkpoint: checkpoint.update(hparams_type="dict"),
    "a key that is no text": lambda checkpoint: checkpoint["hyper_parameters"].update({5: 5}),
    "a list of parameters": lambda checkpoint: checkpoint.update(state_dict=[]),
    "a number for a parameter": lambda checkpoint: checkpoint["state_dict"].update({"supernet.stem.0.weight": 5}),
    "a seed that is a list": told(seed=[1]),
    "a cell that is a list": told(genotype=["a"]),
    "a tensor among the measures": told(metrics={"x": torch.zeros(3)}),
    "a name for the images that is a list": images(name=["digits"]),
    "images of another kind": images(name="nothing"),
    "text for the size of a batch": images(batch_size="64"),
    "an option of the images that is none": images(workers=10**9),
    "huge images": images(name="folder", root=".", image_size=4 * 10**9),
    "a device for the images": images(name="folder", root="/dev/zero"),
    "a folder of another kind": images(name="cifar10", root="/proc/self/fd"),
    "a number beyond the limits": images(batch_size=10**30),
    "many parts in a value": told(metrics=[[0] * 1_000] * 2_000),
}

HARMLESS = {"checkpoint: a key that is no text", "checkpoint: a seed that is a list"}
"""Nothing that is asked for depends on these."""


# Pickles of ImageNet16

IMAGENET: dict[str, bytes] = {
    **{name: raw for name, raw in PICKLES.items() if name not in ("another protocol",)},
    "a long number": b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
    "a number below nothing": b"\x80\x04\x8b" + struct.pack("<i", -1) + b"\x01.",
    "a long text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "a long frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "many bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"a.",
    "bytes below nothing": b"\x80\x02T" + struct.pack("<i", -1) + b"a.",
    "digits": b"L" + b"9" * 10**6 + b"L\n.",
    "an array that is an array": b"\x80\x02cnumpy\nndarray\n"
    + b"\x8a\x09"
    + (10**15).to_bytes(9, "little")
    + b"\x85R.",
    "a memory far away": b"\x80\x02}r\xff\xff\xff\xffj\xff\xff\xff\xff0.",
    "an instruction without anything": b"\x80\x02s.",
    "a group that was not opened": b"\x80\x02e.",
}


# Folders of images


def png(width: int, height: int, kind: int = 2) -> bytes:
    """A picture that says how large it is, and has nothing else."""
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def program() -> str:
    """Pillow calls Ghostscript for such a picture."""
    written("gs", f"#!/bin/sh\ntouch {Path.cwd() / MARKER}\n")
    os.chmod("gs", 0o755)
    os.environ["PATH"] = f"{Path.cwd()}:{os.environ['PATH']}"
    return written("root/a/0.png", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")


IMAGES: dict[str, Callable[[], object]] = {
    "a picture of a trillion pixels": lambda: written("root/a/0.png", png(2**20, 2**20)),
    "a wide picture": lambda: written("root/a/0.png", png(2**31 - 1, 1)),
    "a picture of many pixels": lambda: written("root/a/0.png", png(10_000, 10_000)),
    "a picture without pixels": lambda: written("root/a/0.ppm", b"P6\n0 0\n255\n"),
    "a picture of a negative size": lambda: written(
        "root/a/0.bmp", b"BM" + bytes(16) + struct.pack("<iii", 40, -5, -5)
    ),
    "half a picture": lambda: written("root/a/0.png", png(64, 64)[:60]),
    "a pipe": lambda: pipe("root/a/0.png"),
    "a device": lambda: link("/dev/zero", "root/a/0.png"),
    "a link to nothing": lambda: link("nothing", "root/a/0.png"),
    "a link to itself": lambda: link("0.png", "root/a/0.png"),
    "a huge file": lambda: huge("root/a/0.png"),
    "a program": program,
    "folders in a circle": lambda: [link(".", f"root/a/{name}") for name in "xyz"],
    "a name that breaks the line": lambda: written("root/a/0\n\x1b.png", b"x"),
    "a name that is no text": lambda: written("root/a/\udcff.png", b"x"),
}


# Tables, and the archives that they are made of

COLUMN = COLUMN_NAMES[-1]


def npy(values: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, values, allow_pickle=True)
    return out.getvalue()


def table(content: bytes, compress: int = zipfile.ZIP_STORED, more: Record | None = None) -> str:
    """A compact table with one column of any bytes."""
    with zipfile.ZipFile("table", "w", compress) as file:
        for name, each in {COLUMN: content, **(more or {})}.items():
            file.writestr(f"{name}.npy", each)
    return "table"


def shaped(shape: bytes) -> bytes:
    """An array that says that it has another shape."""
    return npy(np.zeros(15_625, np.float32)).replace(b"(15625,)", shape)


def claimed_column() -> str:
    raw = Path(table(bytes(8))).read_bytes()
    return written("table", raw.replace(struct.pack("<II", 8, 8), struct.pack("<II", 2**31, 2**31)))


def csv(*rows: str) -> str:
    return written("table", "\n".join((f"index,{COLUMN}", *rows)))


TABLES: dict[str, Callable[[], str]] = {
    "a pipe": lambda: pipe("table"),
    "a device": lambda: "/dev/zero",
    "the terminal": lambda: "/dev/stdin",
    "a folder": lambda: ".",
    "a huge file": lambda: huge("table"),
    "a huge compact file": lambda: huge(table(bytes(8))),
    "a path with a zero": lambda: "no\0where",
    "a path that breaks the line": lambda: "no\nwhere",
    "a pickled object": lambda: table(npy(np.array([Run()], dtype=object))),
    "a pickle": lambda: table(pickle.dumps(Run())),
    "a terabyte of cells": lambda: table(shaped(b"(15625, 99999999)")),
    "an expression for a shape": lambda: table(shaped(b"(9**9**9,)")),
    "tuples in tuples for a shape": lambda: table(shaped(b"(" * 50_000)),
    "packed zeros": lambda: table(bytes(10**8), zipfile.ZIP_DEFLATED),
    "sizes that are not there": claimed_column,
    "many entries": lambda: table(bytes(8), more={f"{number:0500}": b"" for number in range(20_000)}),
    "a name that moves the cursor": lambda: table(bytes(8), more={"\x1b[2J": b""}),
    "packed zeros as CSV": lambda: written("table", zlib.compress(bytes(10**8), wbits=31)),
    "many empty fields": lambda: csv("," * 6 * 10**7),
    "many empty lines": lambda: csv("\n" * 6 * 10**7),
    "a quotation without an end": lambda: csv('1,"' + "x\n" * 2 * 10**7),
    "a cell of many digits": lambda: csv(f"{'9' * 60_000},5"),
    "a figure of many digits": lambda: csv(f"5,{'9' * 60_000}"),
    "a figure in other digits": lambda: csv("\u0665,5"),
    "a zero": lambda: csv("5,\0"),
    "half a Parquet file": lambda: written("table", b"PAR1" + bytes(100) + struct.pack("<I", 2**31 - 1) + b"PAR1"),
    "a Parquet file of noise": lambda: written("table", b"PAR1" + random.Random(0).randbytes(10**5) + b"PAR1"),
}


def read_table(build: Callable[[], str]) -> None:
    """Open a table and look at all of it."""
    opened = open_table(Path(build()))
    for column in opened.columns:
        opened.figures(column)


def read_cell_of(raw: bytes) -> None:
    """Read the file of one cell."""
    read_cell_file((0, Path(written("000000.pickle.pbz2", raw))))


def read_whole(build: Callable[[], str]) -> None:
    """Read an archive of all cells."""
    read_file(Path(build()), int)


OUT_OF_PROPORTION = {
    *("a key that hashes for ever", "a set of what hashes for ever", "lists that multiply", "a memory far away"),
    *("a key of a million levels", "lists in lists"),
}
"""What an archive of all cells may do, for which Python's own unpickler is used: ask for more time than there is."""


# Trying them


def attacks(genuine: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every attack by its name; what it calls ends in one sentence."""
    for name, text in CONFIGURATIONS.items():
        yield f"configuration: {name}", partial(configure, text)
        yield f"run: {name}", partial(resume, text)
    for name, words in ARGUMENTS.items():
        yield f"arguments: {name}", partial(configure, "", words)
    for name, cell in GENOTYPES.items():
        yield f"cell: {name}", partial(extract, cell, "--genotype")
    ways: dict[str, Callable[[], str]] = {
        **FILES,
        **TENSORS,
        **{name: partial(archive, raw) for name, raw in PICKLES.items()},
    }
    for name, build in ways.items():
        yield f"checkpoint: {name}", partial(extract, build)
    for name, edit in EDITS.items():
        yield f"checkpoint: {name}", partial(extract, partial(edited, genuine, edit), "--exclude_none", "false")
    for name, raw in IMAGENET.items():
        yield f"imagenet: {name}", partial(read_part, partial(written, "part", raw))
    yield "imagenet: a pipe", partial(read_part, partial(pipe, "part"))
    yield "imagenet: a huge file", partial(read_part, partial(huge, "part"))
    for name, build in TABLES.items():
        yield f"table: {name}", partial(read_table, build)
    for name, raw in IMAGENET.items():
        yield f"cell of an archive: {name}", partial(read_cell_of, bz2.compress(raw))
        if name not in OUT_OF_PROPORTION:
            yield f"archive: {name}", partial(read_whole, partial(archive, raw))
    yield "cell of an archive: packed zeros", partial(read_cell_of, bz2.compress(bytes(10**8)))
    yield "archive: a pipe", partial(read_whole, partial(pipe, "all"))
    yield "archive: a huge file", partial(read_whole, partial(huge, "all"))
    yield "archive: the old format", partial(read_whole, partial(saved, Run(), _use_new_zipfile_serialization=False))
    for name, spoil in IMAGES.items():
        yield f"images: {name}", partial(read_images, spoil)


def resume(text: str | bytes) -> None:
    """Look for a run to go on with where there is one with a hostile configuration; it is passed over."""
    folder = Path("logs", "gdas_digits", "version_0")
    folder.mkdir(parents=True)
    written(str(folder / "config.yaml"), text)
    difference = first_difference(folder, "model: {channels: 2}")
    if difference is not None:
        raise SupernetError(difference)


def configure(text: str | bytes, words: Callable[[], list[str]] = list) -> None:
    """Search by a configuration that names files of strange kinds, or by other words on the command line."""
    huge("huge")
    pipe("pipe")
    command(search, *(words() or ["--config", written("hostile.yaml", text)]))


def extract(build: Callable[[], str], *options: str) -> None:
    """Take the cell out of what is built, which comes last on the command line."""
    command(derive, "--no_retrain", *NETWORK, *options, build())


def read_part(build: Callable[[], str]) -> None:
    """Read a part of ImageNet16."""
    load_part(Path(build()))


def read_images(spoil: Callable[[], object]) -> None:
    for label in "ab":
        Path("root", label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(f"root/{label}/1.png")
    spoil()
    describe("folder", Path("root"), 8).load(Path("root"), False)


def command(run: Callable[..., int], *args: str) -> None:
    """A command in this process; its sentence becomes an error, as that of a function is one."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            # The last option is refused once everything is built: nothing is trained.
            status: Any = run([*args, "--trainer.fast_dev_run", "true"] if run is search else list(args))
        except SystemExit as stop:
            status = stop.code
    if status == 2 and err.getvalue().startswith("error: ") and err.getvalue().count("\n") == 1:
        if "fast_dev_run keeps nothing" in err.getvalue():
            return
        raise SupernetError(err.getvalue().removeprefix("error: "))
    if status or err.getvalue():
        raise AssertionError(f"status {status}: {err.getvalue()[:2_000]}")


def limit_time() -> None:
    """Let a signal end this process if the next attack computes for too long, or waits for something."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS_EACH)
    signal.alarm(10 * SECONDS_EACH)


def attempt(name: str, attack: Callable[[], object]) -> dict[str, Any]:
    """Run an attack in a folder of its own."""
    folder = Path("attack")
    folder.mkdir()
    limit_time()
    began = time.process_time()
    with contextlib.chdir(folder):
        try:
            attack()
            message = "accepted"
        except SupernetError as error:
            message = str(error)
        except BaseException as error:  # what a user would see as a traceback
            message = f"TRACEBACK {type(error).__name__}: {error}"[:2_000]
        executed = Path(MARKER).exists()
    shutil.rmtree(folder)
    return {"name": name, "message": message, "executed": executed, "seconds": time.process_time() - began}


# Fuzzers: each call tries one input, and raises anything but a SupernetError where a parser fails


def mutated(rng: random.Random, raw: bytes) -> bytes:
    """Bytes with a few of them changed, removed, repeated or moved."""
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, length = rng.randrange(len(out) + 1), rng.choice((1, 1, 2, 4, 32))
        kind = rng.randrange(5)
        if kind == 0:
            out[at : at + length] = rng.randbytes(len(out[at : at + length]))
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[at : at + length] * rng.choice((1, 2, 50))
        elif kind == 3:
            out[at : at + length] = rng.choice((b"\xff", b"\x00", b"\x7f")) * length
        elif out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
    return bytes(out)


JUNK: list[Any] = [None, True, -1, 0, 3, 2**63, 10**30, 0.5, float("nan"), float("inf"), "", "x", "\ud800", "/dev/zero"]
JUNK += [[], {}, (), [1], {"a": 1}, {1: 2}, [[]], "none", "digits", 1e300, torch.zeros(2), torch.zeros(0), b"x"]


def replaced(rng: random.Random, value: Any, junk: list[Any]) -> Any:
    """A nested value with one of its parts replaced."""
    if rng.random() < 0.15 or not isinstance(value, dict | list | tuple) or not value:
        return rng.choice(junk)
    if isinstance(value, dict):
        key = rng.choice(list(value))
        changed = dict(value)
        if rng.random() < 0.1:
            del changed[key]
        else:
            changed[key] = replaced(rng, value[key], junk)
        return changed
    items = list(value)
    place = rng.randrange(len(items))
    items[place] = replaced(rng, items[place], junk)
    return type(value)(items) if isinstance(value, list) else tuple(items)


INSTRUCTIONS = bytes(opcode.code.encode("latin1")[0] for opcode in pickletools.opcodes)


def fuzzers(genuine: str, rng: random.Random) -> dict[str, tuple[int, Callable[[], object]]]:
    """For each parser: how many inputs a default run tries, and a function that tries one."""
    raw = Path(genuine).read_bytes()
    checkpoint = torch.load(genuine, weights_only=True)
    with zipfile.ZipFile(genuine) as file:
        files = {entry.filename: file.read(entry) for entry in file.infolist()}
    (values,) = [name for name in files if name.endswith("data.pkl")]
    yamls = [path.read_text() for path in sorted((ROOT / "configs").glob("*.yaml"))]
    structure = yaml.safe_load(yamls[0])
    document = Genotype.parse(CELL).to_json()
    data = np.arange(2 * 768, dtype=np.int64).astype(np.uint8).reshape(2, 768)
    parts = [pickle.dumps({"data": data, "labels": [1, 200]}, protocol) for protocol in range(5)]
    pictures = dict(pictures_of_all_formats())
    results = published_cell(0, {"12": 12})
    record, everything = pickle.dumps(results, 4), pickle.dumps({"arch2infos": {0: results}}, 2)
    plain_junk = [value for value in JUNK if not isinstance(value, torch.Tensor)]
    column = npy(np.full((15_625, 1), 50, np.float32))
    npz = Path(table(column)).read_bytes()
    sheet = "\n".join([f"index,arch,{COLUMN}"] + [f"{n},{Genotype.from_index(n)},{n}" for n in range(20)]).encode()

    def archive_bytes() -> None:
        read_all(written("fuzzed", mutated(rng, raw)))

    def archive_values() -> None:
        with zipfile.ZipFile("fuzzed", "w") as out:
            for name, content in files.items():
                out.writestr(name, mutated(rng, content) if name == values else content)
        read_all("fuzzed")

    def archive_structure() -> None:
        torch.save(replaced(rng, checkpoint, JUNK), "fuzzed")
        read_all("fuzzed")

    def network() -> None:
        changed = replaced(rng, {name: checkpoint[name] for name in ("hyper_parameters", "state_dict")}, JUNK)
        torch.save(checkpoint | changed if isinstance(changed, dict) else changed, "fuzzed")
        build_search("fuzzed", read_checkpoint("fuzzed"))

    def yaml_bytes() -> None:
        load_yaml(mutated(rng, rng.choice(yamls).encode()).decode("utf-8", "replace"))

    def yaml_structure() -> None:
        plain = [value for value in JUNK if not isinstance(value, torch.Tensor | bytes | tuple) and value != "\ud800"]
        text = yaml.safe_dump(replaced(rng, structure, plain))
        command(search, "--config", written("fuzzed.yaml", text), *NETWORK)

    def cells() -> None:
        Genotype.parse(mutated(rng, CELL.encode()).decode("utf-8", "surrogateescape"))

    def documents() -> None:
        Genotype.load(written("fuzzed", mutated(rng, document.encode())))

    def document_structure() -> None:
        plain = [value for value in JUNK if not isinstance(value, torch.Tensor | bytes)]
        Genotype.from_json(json.dumps(replaced(rng, json.loads(document), plain)))

    def imagenet() -> None:
        load_part(Path(written("fuzzed", mutated(rng, rng.choice(parts)))))

    def soup() -> None:
        words = [bytes([rng.choice(INSTRUCTIONS)]) + rng.randbytes(rng.choice((0, 0, 1, 4))) for _ in range(30)]
        load_part(Path(written("fuzzed", b"\x80\x04" * rng.randrange(2) + b"".join(words) + b".")))

    def compact() -> None:
        read_table(lambda: written("fuzzed", mutated(rng, npz)))

    def arrays() -> None:
        read_table(lambda: table(mutated(rng, column)))

    def lines() -> None:
        read_table(lambda: written("fuzzed", mutated(rng, sheet)))

    def cell_of() -> None:
        read_cell_of(bz2.compress(mutated(rng, record)))

    def cell_structure() -> None:
        read_cell_of(bz2.compress(pickle.dumps(replaced(rng, results, plain_junk), 4)))

    def whole_archive() -> None:
        read_whole(lambda: archive(mutated(rng, everything)))

    def picture() -> None:
        ending = rng.choice(sorted(pictures))
        shutil.rmtree("fuzzed_images", ignore_errors=True)
        for label in "ab":
            Path("fuzzed_images", label).mkdir(parents=True)
            written(f"fuzzed_images/{label}/0.{ending}", mutated(rng, pictures[ending]))
        describe("folder", Path("fuzzed_images"), 8).load(Path("fuzzed_images"), False)

    return {
        "checkpoint, bytes of the file": (80, archive_bytes),
        "checkpoint, bytes of its values": (80, archive_values),
        "checkpoint, parts of its values": (30, archive_structure),
        "checkpoint, network it describes": (20, network),
        "configuration, bytes": (1_000, yaml_bytes),
        "configuration, parts": (8, yaml_structure),
        "cell string, bytes": (5_000, cells),
        "cell file, bytes": (2_000, documents),
        "cell file, parts": (2_000, document_structure),
        "ImageNet16, bytes": (1_000, imagenet),
        "ImageNet16, instructions": (1_500, soup),
        "images, bytes": (300, picture),
        "compact table, bytes": (200, compact),
        "compact table, an array": (200, arrays),
        "CSV table, bytes": (1_000, lines),
        "file of a cell, bytes": (60, cell_of),
        "file of a cell, parts": (60, cell_structure),
        "archive of all cells, bytes": (200, whole_archive),
    }


def load_yaml(text: str) -> None:
    try:
        configuration.load(text)
    except yaml.YAMLError as error:
        raise SupernetError(str(error)) from None


def read_all(path: str) -> None:
    checkpoint = read_checkpoint(path)
    for read in (lambda: recorded_genotype(path, checkpoint), lambda: progress(checkpoint)):
        with contextlib.suppress(SupernetError):
            read()


def pictures_of_all_formats() -> Iterator[tuple[str, bytes]]:
    picture = Image.effect_noise((12, 9), 50).convert("RGB")
    for ending, kind in (
        ("jpg", "JPEG"),
        ("png", "PNG"),
        ("ppm", "PPM"),
        ("bmp", "BMP"),
        ("tif", "TIFF"),
        ("webp", "WEBP"),
    ):
        out = io.BytesIO()
        picture.save(out, kind)
        yield ending, out.getvalue()


def fuzz(name: str, count: int, seconds: float, once: Callable[[], object]) -> dict[str, Any]:
    """Try so many inputs, or as many as the seconds allow; the first failure is told."""
    tried = accepted = 0
    began = time.process_time()
    while tried < count or time.process_time() - began < seconds:
        limit_time()
        try:
            once()
            accepted += 1
        except SupernetError as error:
            if "\n" in str(error):
                return {"name": name, "tried": tried, "message": f"several lines: {error}"}
        except BaseException as error:
            return {
                "name": name,
                "tried": tried,
                "message": f"TRACEBACK {type(error).__name__}: {traceback.format_exc()}",
            }
        tried += 1
    took = time.process_time() - began
    return {"name": name, "tried": tried, "accepted": accepted, "message": "", "seconds": took}


def main(genuine: str, folder: str, seconds: float = 0) -> None:
    """Limit this process, then try everything."""
    os.chdir(folder)
    torch.set_num_threads(1)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(150 + 18 * seconds),) * 2)
    for name, attack in attacks(genuine):
        print(json.dumps({"begins": name}), flush=True)
        print(json.dumps(attempt(name, attack)), flush=True)
    seed = int(time.time()) if seconds else 0
    for name, (count, once) in fuzzers(genuine, random.Random(seed)).items():
        print(json.dumps({"begins": name}), flush=True)
        print(json.dumps({**fuzz(name, count, seconds, once), "seed": seed}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
