"""How methods and figures look: colours and markers, and sizes for screens, papers and slides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple


class Style(NamedTuple):
    """How a method looks.

    Attributes:
        color: On white.
        dark: On a dark page.
        marker: Matplotlib's sign.
        dash: 0 drawn through; 1 and 2 dashed and dotted, for variants in their method's colour.
    """

    color: str
    dark: str
    marker: str
    dash: int = 0


# told apart by people with any kind of colour vision; markers tell them apart in print
STYLES = {
    "VPNs": Style("#0072b2", "#56b4e9", "o"),
    "HYDRA": Style("#d55e00", "#f28e4b", "s"),
    "OMP": Style("#b07a00", "#f0b93a", "^"),
    "Random": Style("#6b6b6b", "#b4b4b4", "X"),
    "LTH": Style("#009e73", "#3cc79f", "D"),
    "SNIP": Style("#882255", "#d17aa6", "v"),
    "GraSP": Style("#7f7f1e", "#c9c95a", "P"),
    "SynFlow": Style("#332288", "#9a8ee8", "<"),
    "BiP": Style("#c05a94", "#eb9fc8", ">"),
    "GMP": Style("#44808a", "#7fc4d0", "h"),
    "RigL": Style("#661100", "#d98a78", "p"),
    "Wanda": Style("#3b6fb5", "#8db4ea", "*"),
    "Slim": Style("#009e73", "#3cc79f", "D"),
    "DepGraph": Style("#b07a00", "#f0b93a", "^"),
    "Dense": Style("#222222", "#e6e6e6", "", 1),
    "VPNs w. Dense": Style("#222222", "#e6e6e6", "", 2),
    "Dense, warm-up": Style("#222222", "#e6e6e6", "", 1),
}
SPARE = (
    Style("#aa4466", "#e08aa6", "d"),
    Style("#117733", "#62b97f", "8"),
    Style("#4477aa", "#86b0dc", "H"),
    Style("#7a5c00", "#cdb35a", "1"),
    Style("#5a3e8e", "#b29ae0", "2"),
)


DASHES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")


def style_of(label: str) -> Style:
    """Return the look of a method; a variant looks like its method, dashed or dotted."""
    if label in STYLES:
        return STYLES[label]
    inner = label.removeprefix("VPNs w. ")
    name = next((name for name in sorted(STYLES, key=len, reverse=True) if name in inner), None)
    if name is not None:
        return STYLES[name]._replace(dash=1 if inner != label else 2)
    return SPARE[sum(map(ord, label)) % len(SPARE)]


def styles_of(labels: Sequence[str]) -> dict[str, Style]:
    """Return a look for each label, no two alike where that can be helped."""
    styles: dict[str, Style] = {}
    taken = {STYLES[label][::3] for label in labels if label in STYLES}
    for label in labels:
        style = style_of(label)
        if label not in STYLES:
            # another dash of its own colour, else another colour
            others = (style, *(style._replace(dash=dash) for dash in (2, 1, 0)), *SPARE)
            style = next((other for other in others if other[::3] not in taken), style)
        taken.add(style[::3])
        styles[label] = style
    return styles


def family_of(label: str) -> str:
    """Return the method that a label is a variant of, else the label."""
    inner = label.removeprefix("VPNs w. ")
    found = (name for name in sorted(STYLES, key=len, reverse=True) if name in inner)
    return next(found, label)


Format = Literal["png", "svg", "pdf"]
FORMATS: tuple[Format, ...] = ("png", "svg", "pdf")
PRINT_DPI = 300
WIDTHS = {"column": 3.25, "page": 6.75}  # inches, of two-column papers


@dataclass(frozen=True)
class Look:
    """Sizes of a figure.

    Attributes:
        width: In inches; None as wide as its panels are.
        font: Size of labels in points; whatever has a size follows it.
        dpi: Dots an inch of a PNG.
        titled: The title and what is said of seeds stand in the picture; else in a file beside it.
        line: Width of lines in points.
        marker: Size of markers in points.
        formats: Of the files.
    """

    width: float | None = None
    font: float = 8.5
    dpi: int = 110
    titled: bool = True
    line: float = 1.6
    marker: float = 5
    formats: tuple[Format, ...] = ("png", "svg")

    @property
    def scale(self) -> float:
        """Return how much larger than on a screen things are."""
        return self.font / 8.5


LOOKS = {
    "screen": Look(),
    "paper": Look(
        WIDTHS["column"], 8, PRINT_DPI, titled=False, line=1.2, marker=3.5, formats=("png", "pdf")
    ),
    "slides": Look(12, 16, PRINT_DPI, line=3, marker=9),
}
