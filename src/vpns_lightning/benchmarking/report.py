"""What ``vpns bench`` shows: ratios first, then what they were made of."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

SPEED_HEADS = ("", "speed-up", "quartiles", "processor", "MACs", "realised")


class Section(NamedTuple):
    """A table: its title, the heads of its columns, and its rows."""

    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def sections(found: Mapping[str, Any]) -> list[Section]:
    """Return the tables of a measurement, ratios first.

    Args:
        found: Of :func:`vpns_lightning.benchmarking.measure`.
    """
    counted = f"{found['macs']['ratio']:.2f}x"
    speed = [
        (
            _where(each),
            f"{each['speedup']:.2f}x",
            "{:.2f}-{:.2f}".format(*each["speedup_quartiles"]),
            _processor(each),
            counted,
            f"{each['realised']:.2f}",
        )
        for each in found["timings"]
    ]
    sizes = [
        ("parameters kept", f"{found['parameters']['ratio']:.3f}"),
        ("exported file", f"{found['file_bytes']['ratio']:.3f}"),
        *(
            (f"training memory, {_step(each)}", f"{each['ratio']:.3f}")
            for each in found["training_memory_bytes"]
        ),
    ]
    return [
        Section("Dense over pruned", SPEED_HEADS, speed),
        Section("Pruned over dense", ("", "ratio"), sizes),
        Section(
            "Medians: milliseconds a batch, images a second",
            ("", "dense ms", "pruned ms", "dense /s", "pruned /s", "rounds"),
            [_absolute(each) for each in found["timings"]],
        ),
        Section("Counts", ("", "dense", "pruned"), _counts(found)),
    ]


def _processor(timing: Mapping[str, Any]) -> str:
    """Return the ratio of processor times, which another program on the machine hardly changes."""
    if timing["device"] != "cpu":
        return "-"
    dense, pruned = (timing[f"{side}_processor_seconds"] for side in ("dense", "pruned"))
    return f"{dense / pruned:.2f}x" if pruned else "-"


def _where(timing: Mapping[str, Any]) -> str:
    return f"{timing['runtime']}, {timing['device']}, batch {timing['batch_size']}"


def _step(memory: Mapping[str, Any]) -> str:
    return f"{memory['device']}, batch {memory['batch_size']}"


def _absolute(timing: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        _where(timing),
        *(f"{1e3 * timing[f'{side}_seconds']:.2f}" for side in ("dense", "pruned")),
        *(f"{timing[f'{side}_images_per_second']:.1f}" for side in ("dense", "pruned")),
        str(timing["rounds"]),
    )


def _counts(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    scaled = [
        ("MACs of one image, millions", found["macs"], 1e6),
        ("parameters, millions", found["parameters"], 1e6),
        ("exported file, MB", found["file_bytes"], 1e6),
        *(
            (f"training memory, MB, {_step(each)}", each, 1e6)
            for each in found["training_memory_bytes"]
        ),
    ]
    return [
        (name, *(f"{values[side] / unit:,.2f}" for side in ("dense", "pruned")))
        for name, values, unit in scaled
    ]


def notes(found: Mapping[str, Any]) -> list[str]:
    """Return what the figures mean, what was not measured, and why."""
    missing = [
        f"{each['runtime']} on {each['device']}: not measured: {each['reason']}"
        for each in found["not_measured"]
    ]
    heads = [
        "speed-up: median over the rounds of dense over pruned seconds",
        "processor: ratio of processor times, steadier than the clock on a busy machine",
        "realised: speed-up over MACs, the part of the MACs saved that is felt",
    ]
    return [*(heads if found["timings"] else []), *found["remarks"], *missing]


def headline(found: Mapping[str, Any]) -> str:
    """Return what was compared, in one line."""
    kind = "channels cut" if found["cut"] else "weights masked"
    return (
        f"{found['backbone']}, {100 * found['sparsity']:.1f} % of {kind}, images of "
        f"{found['input_size']} px: {found['macs']['ratio']:.2f}x fewer MACs than dense"
    )


def show(found: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the tables and notes."""
    console = console or Console()
    console.print(headline(found))
    for section in sections(found):
        if not section.rows:
            continue
        table = Table(
            title=section.title,
            box=box.SIMPLE_HEAD,
            title_justify="left",
            show_edge=False,
            pad_edge=False,
            collapse_padding=True,
        )
        for index, head in enumerate(section.heads):
            table.add_column(head, justify="right" if index else "left", no_wrap=True)
        for row in section.rows:
            table.add_row(*row)
        console.print(table)
    for note in notes(found):
        console.print(note, highlight=False, soft_wrap=True)


def markdown(found: Mapping[str, Any]) -> str:
    """Return the same as a Markdown page."""
    lines = ["# Pruned against dense", "", headline(found), ""]
    for section in sections(found):
        if section.rows:
            lines += [f"## {section.title}", "", *_markdown_rows(section), ""]
    lines += [f"- {note}" for note in notes(found)]
    machines = "; ".join(found["machine"].values())
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines += ["", f"Medians of interleaved rounds in one process. {machines}; {versions}."]
    return "\n".join(lines) + "\n"


def _markdown_rows(section: Section) -> list[str]:
    rows = [section.heads, tuple("---" for _ in section.heads), *section.rows]
    return ["| " + " | ".join(row) + " |" for row in rows]
