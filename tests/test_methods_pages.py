"""The pages on methods: no method, prompt, mapping or argument is missing, none is made up."""

import inspect
import re
from pathlib import Path

import pytest

import vpns_lightning.network as network
import vpns_lightning.pruners as pruners
from vpns_lightning.network import LabelMapping, Prompt
from vpns_lightning.pruners import Pruner, Structured

DOCS = Path(__file__).parents[1] / "docs"


def offered(room: object, kind: type) -> dict[str, type]:
    """Return what a room exports of a kind and a config can name."""
    found = {name: getattr(room, name) for name in room.__all__}
    return {
        name: each
        for name, each in found.items()
        if isinstance(each, type) and issubclass(each, kind) and not inspect.isabstract(each)
    }


METHODS = offered(pruners, Pruner)


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^### (.+)$", (DOCS / page).read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_method_has_its_section() -> None:
    assert sections("methods.md").keys() == METHODS.keys()
    assert len(METHODS) == 16


def shown(value: object) -> str:
    """Return a default as the page writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and 0 < value < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("name", METHODS)
def test_every_argument_is_there_with_its_default(name: str) -> None:
    (said,) = re.findall(r"- Arguments: (.+?)\n-", sections("methods.md")[name], re.S) or [""]
    documented = dict(re.findall(r"`(\w+)(?:: ([^`]+))?`", re.sub(r"\([^)]*\)", "", said)))
    accepted = inspect.signature(METHODS[name]).parameters.items()
    taken = {key: each for key, each in accepted if each.kind is not each.VAR_KEYWORD}
    taken = {key: each for key, each in taken.items() if each.kind is not each.VAR_POSITIONAL}
    if issubclass(METHODS[name], Structured):
        for shared in inspect.signature(Structured).parameters:
            taken.pop(shared)
    assert documented == {
        key: "" if parameter.default is parameter.empty else shown(parameter.default)
        for key, parameter in taken.items()
    }


def test_nothing_that_can_be_chosen_is_missing_from_the_page_on_fidelity() -> None:
    page = (DOCS / "fidelity.md").read_text()
    kinds = {**METHODS, **offered(network, Prompt), **offered(network, LabelMapping)}
    assert len(kinds) == 16 + 5 + 5
    assert [name for name in kinds if f"`{name}`" not in page] == []
    tests = set(re.findall(r"tests/[\w/]+\.py", page))
    assert tests
    assert [test for test in tests if not (DOCS.parent / test).exists()] == []
