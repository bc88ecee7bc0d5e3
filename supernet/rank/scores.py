"""The file of scores: one line a cell, appended as they come, so that what was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from supernet.errors import SupernetError
from supernet.files import read_regular
from supernet.genotype import Genotype
from supernet.space import CellSpace

_MAX_BYTES = 2**26


class Scores:
    """Scores of cells, kept in a file.

    The first line says in JSON what decides a score, every other one is a cell and its accuracy, 0 to 1, with a tab
    between. A last line that was not written to its end is dropped.

    Args:
        path: the file; made if it is not there.
        identity: what decides a score.
        space: that of the cells.

    Raises:
        SupernetError: there is such a file of something else, or it is damaged or cannot be written.
    """

    def __init__(self, path: Path, identity: dict[str, Any], space: CellSpace) -> None:
        self.path, self.header, self.space = path, json.dumps(identity), space
        self.known: dict[Genotype, float] = {}
        """What is in the file."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = read_regular(path, _MAX_BYTES) if path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            self._read(whole.decode())
            with path.open("r+b" if content else "wb") as file:
                file.truncate(len(whole))
                if not whole:
                    file.write(f"{self.header}\n".encode())
        except SupernetError:
            raise
        except (OSError, ValueError) as error:
            raise SupernetError(f"cannot keep scores in {path}: {error}; pass another folder to --out") from None

    def _read(self, text: str) -> None:
        header, *lines = text.split("\n")[:-1] or [self.header]
        if header != self.header:
            raise SupernetError(
                f"{self.path} has the scores of another search, or on other images ({self._difference(header)}); pass"
                " another folder to --out, or remove that file"
            )
        for number, line in enumerate(lines, start=2):
            name, _, accuracy = line.partition("\t")
            cell, value = Genotype.parse(name), float(accuracy)
            if cell not in self.space or not 0 <= value <= 1:
                raise SupernetError(f"{self.path} is damaged: line {number} is {line!r}; remove that file")
            self.known[cell] = value

    def _difference(self, header: str) -> str:
        """The first thing that is another one."""
        try:
            found, own = json.loads(header), json.loads(self.header)
            return next(f"{name} was {found.get(name)}, now it is {own[name]}"
                        for name in own if found.get(name) != own[name])  # fmt: skip
        except (ValueError, AttributeError, StopIteration, RecursionError):
            return "its first line does not say which"

    def add(self, scored: Iterable[tuple[Genotype, float]]) -> None:
        """Write scores as they come, each at once."""
        with self.path.open("a", encoding="utf-8") as file:
            for cell, accuracy in scored:
                file.write(f"{cell}\t{accuracy!r}\n")
                file.flush()
                self.known[cell] = accuracy
