"""What people read, written from records: the Markdown of each, and the tables of the README. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks.evidence import Record, shown, within
from benchmarks.measure import markdown
from benchmarks.tabulated import text
from supernet.errors import SupernetError


def rendered(record: Record) -> str:
    """The Markdown of a record, whole: what lies in ``results/NAME.md``."""
    rows = [
        [
            figure["name"],
            shown(figure),
            figure["unit"] or "-",
            within(figure["may_differ"]["same"]),
            within(figure["may_differ"]["other"]),
            figure["may_differ"]["why"] or "-",
        ]
        for figure in record["figures"]
    ]
    head = ["figure", "value", "unit", "may differ here", "may differ elsewhere", "why"]
    parts = [
        f"# {record['what'][0].upper()}{record['what'][1:]}",
        f"`python -m benchmarks.reproduce {record['name']}` does it again, and compares. {told(record)}",
        "\n".join(["```bash", *record["commands"], "```"]),
        *([record["notes"]] if record["notes"] else []),
        markdown(head, rows),
        '"Here" is the same hardware with the same versions. '
        + (
            f"Configuration (SHA-256): `{record['configuration']}`."
            if record["configuration"]
            else "No step leaves a configuration: the commands say all."
        ),
    ]
    if details := record.get("details"):
        parts.append(text(details["rows"], details["baselines"]))
    return "\n\n".join(parts) + "\n"


def told(record: Record) -> str:
    """Date, seeds, hardware and versions, in one sentence or two."""
    versions = record["versions"]
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "hardware")
    took = "" if record["seconds"] is None else f" It took {record['seconds']:,.0f} s."
    return f"{_when(record)}{versions['hardware']}; {libraries}.{took}"


def _when(record: Record) -> str:
    seeds = record["seeds"]
    which = (
        f"{len(seeds)} seeds, mean ± standard deviation; " if len(seeds) > 1 else f"seed {seeds[0]}; " if seeds else ""
    )
    return f"{record['date']}; {which}"


def readme(page: str, records: Sequence[Record]) -> str:
    """A page with its tables written anew, each between ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises:
        SupernetError: the page has no such place, or more than one.
    """
    for name, table in {"results": results_table(records), "searches": searches_table(records)}.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        places = [*re.finditer(f"{begin}\n.*?{end}", page, re.DOTALL)]
        if len(places) != 1:
            raise SupernetError(f"the page must have one place between {begin} and {end} for a table")
        page = f"{page[: places[0].start()]}{begin}\n{table}\n{end}{page[places[0].end() :]}"
    return page


def results_table(records: Sequence[Record]) -> str:
    """A row for each record that has headlines."""
    rows = []
    for record in records:
        measured = [_headline(figure) for figure in record["figures"] if figure["headline"]]
        if measured:
            commands = "<br>".join(f"`{command}`" for command in record["commands"])
            where = f"[{record['what']}](results/{record['name']}.md)"
            rows.append(f"| {where} | {commands} | {'; '.join(measured)} | {_in_short(record)} |")
    return "\n".join(["| what | commands | measured | with |", "|---|---|---|---|", *rows])


def _headline(figure: Record) -> str:
    return f"{figure['name']}: {shown(figure, unit=True)}"


def _in_short(record: Record) -> str:
    return f"{_when(record)}{record['versions']['hardware']}; torch {record['versions']['torch']}"


def searches_table(records: Sequence[Record]) -> str:
    """What every search found, in two columns, the best first, and below what takes no search."""
    lines = []
    for record in records:
        if details := record.get("details"):
            found = {figure["name"]: figure for figure in record["figures"]}
            order = [row["method"] for row in details["rows"] + details["baselines"]]
            lines += [f"{name} | {shown(found[name])}" for name in order if name in found]
    half = (len(lines) + 1) // 2
    pairs = zip(lines[:half], [*lines[half:], " | "][:half], strict=True)
    head = ["| search | accuracy, % | | search | accuracy, % |", "|---|---:|---|---|---:|"]
    return "\n".join([*head, *(f"| {left} | | {right} |" for left, right in pairs)])
