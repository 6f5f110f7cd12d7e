"""Text of others, written where it must be neither markup nor the end of its place."""


def inline(value: object) -> str:
    """Return a value as Markdown of one line: no HTML, no link, no end of a table's cell."""
    text = " ".join(str(value).split()).replace("|", r"\|").replace("<", "&lt;")
    return text.replace("[", r"\[").replace("](", r"\](")


def is_formula(text: str) -> bool:
    """Return whether a spreadsheet would compute a cell of this text, which may be another's."""
    return text.startswith(("=", "+", "-", "@", "\t", "\r"))
