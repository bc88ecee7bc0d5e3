"""The command: score cells, hold them to a table, and leave what was found in files and in TensorBoard."""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from supernet.benchmark import Column, TabularBenchmark, open_table
from supernet.benchmark.tabulated import choose_column
from supernet.cli.runs import CHECKPOINT, lock, runs
from supernet.errors import SupernetError, ignore_interrupts
from supernet.files import remove_quietly, write_whole
from supernet.genotype import Genotype
from supernet.latency import check_device
from supernet.plot import scatter
from supernet.rank.cells import choose_cells
from supernet.rank.figures import EFFECTIVE, SHARED, Compared, aligned, as_text, best_cells, compare, figures
from supernet.rank.opened import Opened, open_search
from supernet.rank.scores import Scores
from supernet.shared import shared_accuracies
from supernet.versions import versions

_DESCRIPTION = """Score the cells of a search with its shared parameters, and see how well that ranks them.

What was stopped goes on when the command is repeated."""


def main(args: Sequence[str]) -> None:
    """Run the command.

    Args:
        args: the command line, without the name of the program.

    Raises:
        SupernetError: a mistake of the user.
    """
    given = _parse(args)
    check_device(given.device)
    table = None if given.table is None else open_table(given.table)
    given.checkpoint = _checkpoint(given.checkpoint)
    device = torch.device(given.device)
    opened = open_search(
        given.checkpoint, given.root, given.images, given.recalibration_images, device, given.batch_size
    )
    opened.identity["precision"] = given.precision
    column = None if table is None else choose_column(table, given.column, opened.identity["data"])
    cells = choose_cells(opened.supernet.space, given.cells, given.seed)
    run = given.checkpoint.resolve().parent.parent
    out = given.out or run / "rank"
    begun = time.perf_counter()
    with _held(out):
        scores = Scores(out / "scores.tsv", opened.identity, opened.supernet.space)
        missing = [cell for cell in cells if cell not in scores.known]
        scores.add(_scored(opened, missing, given.precision == "bf16-mixed"))
        record = {
            "command": shlex.join(["python", "-m", "supernet.rank", *args]),
            "checkpoint": str(given.checkpoint),
            **opened.identity,
            "epoch": opened.epoch,
            "cells": given.cells,
            "num_cells": len(cells),
            "seed": given.seed,
            "seconds": round(time.perf_counter() - begun, 1),
            "scored_now": len(missing),
            "versions": versions(device),
        }
        shared = {cell: scores.known[cell] for cell in cells}
        _tell(shared, record, opened.step, table, column, out, out if given.out else run)


def _checkpoint(path: Path) -> Path:
    """The checkpoint that is meant: a file, or the last one in the folder of a run."""
    if (path / CHECKPOINT).is_file():
        return path / CHECKPOINT
    if path.is_dir():
        found = [folder / CHECKPOINT for _, folder in sorted(runs(path), reverse=True)]
        last = next((each for each in found if each.is_file()), "a checkpoint, which a search leaves in checkpoints/")
        raise SupernetError(f"{path} is a folder, and no run with a checkpoint; pass {last}")
    if not path.is_file():
        raise SupernetError(f"there is no checkpoint {path}; a search leaves one in its checkpoints folder")
    return path


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, and say what to do when it is left early."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = lock(folder)
    except OSError as error:
        raise SupernetError(
            f"cannot keep scores in {folder}: {error.strerror or error}; pass another folder to --out"
        ) from None
    try:
        yield
    except KeyboardInterrupt:
        ignore_interrupts()
        raise KeyboardInterrupt("the scores so far are kept: the same command goes on from here") from None
    finally:
        if handle is not None:
            os.close(handle)


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m supernet.rank", description=_DESCRIPTION, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a search, or the folder of its run")
    parser.add_argument("--cells", default="all", help="all (the default), distinct, or how many to draw at random")
    parser.add_argument("--images", type=int, default=2048, help="validation images of the search; 2048 if not given")
    parser.add_argument("--batch_size", type=int, help="images in a batch; as in the search if not given")
    parser.add_argument("--norm", choices=["search", "batch", "recalibrated"], default="search",
                        help="what normalises: as where the search compares cells (search, the default), the statistics"
                        " of each batch (batch), or of images that it is run on first (recalibrated)")  # fmt: skip
    parser.add_argument("--recalibration_images", type=int,
                        help="training images of which each cell makes its statistics, with --norm recalibrated;"
                        " 1024 if not given")  # fmt: skip
    parser.add_argument("--table", type=Path, help="table of NAS-Bench-201")
    parser.add_argument(
        "--column",
        help="which accuracy of the table is the truth; if not given, what papers report on the data set of the search,"
        " or on cifar10 if it is not tabulated",
    )
    parser.add_argument("--out", type=Path, help="folder for the results; rank in the folder of the run if not given")
    parser.add_argument("--root", help="folder that holds the images; that of the search if not given")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to compute")
    parser.add_argument(
        "--precision", choices=["32-true", "bf16-mixed"], default="32-true", help="32-true if not given"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random sample of cells; 0 if not given")
    given = parser.parse_args(args)
    if given.column is not None and given.table is None:
        raise SupernetError("--column is one of a table; pass --table, too")
    if given.norm != "recalibrated" and given.recalibration_images is not None:
        raise SupernetError("--recalibration_images are for statistics of its own; pass --norm recalibrated, too")
    if given.norm != "search":
        given.recalibration_images = 0 if given.norm == "batch" else given.recalibration_images or 1024
    if given.seed < 0:
        raise SupernetError(f"--seed must be at least 0, got {given.seed}")
    if given.batch_size is not None and given.batch_size < 2:
        raise SupernetError(f"--batch_size must be at least 2 for batch normalisation, got {given.batch_size}")
    for name, number in {"images": given.images, "recalibration_images": given.recalibration_images or 2}.items():
        if number < 2:
            raise SupernetError(f"--{name} must be at least 2 for batch normalisation, got {number}")
    return given


def _scored(opened: Opened, cells: Sequence[Genotype], mixed: bool) -> Iterator[tuple[Genotype, float]]:
    """The accuracies of cells, with the progress shown: a bar on a terminal, else a line for each tenth."""
    seen, begun, bar = 0, time.perf_counter(), tqdm(total=len(cells), unit="cell", disable=None)
    with closing(bar), torch.autocast(opened.batches[0][0].device.type, torch.bfloat16, enabled=mixed):
        for scored in shared_accuracies(opened.supernet, cells, opened.batches, opened.calibration):
            yield scored
            seen += 1
            bar.update()
            if bar.disable and seen * 10 // len(cells) > (seen - 1) * 10 // len(cells):
                print(f"{seen:,} of {len(cells):,} cells in {time.perf_counter() - begun:.0f} s", flush=True)


def _tell(
    shared: Mapping[Genotype, float],
    record: dict[str, Any],
    step: int,
    table: TabularBenchmark | None,
    column: Column | None,
    out: Path,
    events: Path,
) -> None:
    """Print what was found, and leave it in files."""
    lines, picture = [], out / "rank.png"
    record["best"] = [
        {"cell": str(cell), "index": cell.index, "shared_accuracy": shared[cell]} for cell in best_cells(shared)
    ]
    if table is None or column is None:
        remove_quietly(picture)  # of other cells, or another column
        print("The best cells by shared accuracy; --table, with the table of NAS-Bench-201, tells how well it ranks"
              " (CSV with the columns arch and, for example, cifar10_50k_test_200).\n")  # fmt: skip
    else:
        compared = compare(shared, table, column, shared)
        rows = figures(compared)
        for best in record["best"]:
            if (cell := Genotype.parse(best["cell"])) in compared.cells:
                best |= table.place(cell, column)._asdict()
        record |= {"table": table.source, "column": str(column), "meaning": column.meaning, "rows": rows}
        print(f"Held to {column}: {column.meaning}, mean of seeds.\n\n{as_text(rows)}\n")
        _draw(compared, column, rows, step, picture, events)
        record["picture"] = picture.name
        lines.append(f"picture    {picture}")
    print(_best_text(record["best"]))
    write_whole(out / "rank.json", (json.dumps(record, indent=2) + "\n").encode())
    print("\n".join(["", *lines, f"scores     {out / 'scores.tsv'}", f"results    {out / 'rank.json'}"]))


def _best_text(best: Sequence[dict[str, Any]]) -> str:
    placed = all("rank" in each for each in best)
    header = ["index", "shared\naccuracy, %", *(["true\naccuracy, %", "true\nrank"] if placed else []), "cell"]
    rows = [
        [
            "-" if each["index"] is None else str(each["index"]),
            f"{100 * each['shared_accuracy']:.2f}",
            *([f"{each['accuracy']:.2f}", f"{each['rank']:,}"] if placed else []),
            each["cell"],
        ]
        for each in best
    ]
    return aligned(header, rows, text=len(header) - 1)


def _draw(
    compared: Compared, column: Column, rows: Sequence[dict[str, Any]], step: int, picture: Path, events: Path
) -> None:
    """The picture, as a file and in TensorBoard, and there the figures too."""
    from torch.utils.tensorboard import SummaryWriter  # here: it takes its time

    shown = {f"{SHARED}, %": 100 * compared.scores[SHARED], f"{EFFECTIVE}, millions": compared.scores[EFFECTIVE] / 1e6}
    colours = [cell.ops.count("nor_conv_3x3") for cell in compared.cells]
    figure = scatter(shown, compared.truth, colours, "3x3 convolutions", _in_words(column))
    drawing = io.BytesIO()
    figure.savefig(drawing, format="png", dpi=150)
    write_whole(picture, drawing.getvalue())
    with SummaryWriter(str(events), filename_suffix=".rank") as writer:
        writer.add_figure("rank/scatter", figure, step)
        for row in rows:
            for name, value in row.items():
                if isinstance(value, float):
                    writer.add_scalar(f"rank/{name}/{row['score'].replace(' ', '_')}", value, step)


def _in_words(column: Column) -> str:
    """What the truth is, short: the title of an axis."""
    dataset, _, _ = column.meaning.partition(",")
    measure = "test" if column.measure == "test" else "validation"
    return f"{dataset} {measure} accuracy after {column.epochs} epochs, %"
