"""The page of a report in a real Chromium: filters, figures, layout; it reports what it sees."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from PIL import Image
from toy_results import PAD, grid, result, write

from vpns_lightning.report.make import make_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), ""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH (apt-get install chromium)"),
]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--virtual-time-budget=4000", "--enable-logging=stderr"),
)
# runs after the page's own script and leaves what it saw in the document
PROBE = """
<script>
addEventListener("load", () => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const texts = (selector) => all(selector).map((node) => node.textContent);
  const box = (kind, value) => all(`input[name=${kind}]`).find((i) => i.value === value);
  const set = (kind) => document.querySelector(`input[name=${kind}]`).closest("fieldset");
  const button = (kind, text) =>
    [...set(kind).querySelectorAll("button")].find((b) => b.textContent === text);
  const state = () => ({
    curves: all("#body-fig4 polyline.curve").length, points: all("#body-fig4 .point").length,
    dense: all("#body-fig4 .dense").length, ends: texts("#body-fig4 text.end"),
    rows: texts("#body-fig4 tbody th"), panels: texts("#body-fig4 .panel h3"),
    costs: all("#body-cost .point").length, layers: texts("#body-layers thead th"),
    captions: texts("#body-fig4 caption"),
    commands: all("#body-commands pre").length, costTable: texts("#body-tabA3 tbody th").length,
  });
  const seen = {};
  const at = (name, act) => { act(); seen[name] = state(); };
  at("start", () => {});
  at("without OMP", () => box("method", "OMP").click());
  at("with OMP again", () => box("method", "OMP").click());
  at("without DTD", () => box("dataset", "DTD").click());
  at("no method", () => button("method", "none").click());
  at("all methods", () => { button("method", "all").click(); button("dataset", "all").click(); });
  const axis = document.getElementById("cost-axis");
  axis.value = "seconds"; axis.dispatchEvent(new Event("change"));
  seen.axis = texts("#body-cost svg text").filter((t) => t === "seconds").length;
  const over = new PointerEvent("pointerenter", { clientX: 50, clientY: 50 });
  document.querySelector("#body-fig4 .point").dispatchEvent(over);
  seen.tip = document.getElementById("tip").textContent;
  seen.missing = texts("#body-fig4 .warn li");
  seen.lacking = texts("#body-lacking tbody th");
  seen.bold = texts("#body-fig4 strong");
  seen.width = [document.documentElement.scrollWidth, innerWidth];
  seen.back = getComputedStyle(document.body).backgroundColor;
  seen.loads = performance.getEntriesByType("resource").map((e) => e.name);
  const named = (n) => n.labels?.length || n.textContent.trim();
  seen.pictures = all("figure img").map((i) => [i.closest("section").id, i.alt, i.naturalWidth,
    i.closest("figure").querySelector("figcaption").textContent,
    [...i.closest("section").querySelectorAll("a")].map((a) => a.getAttribute("href"))]);
  seen.unlabelled = all("input, select, button").filter((n) => !named(n)).length;
  seen.gaps = all("svg").flatMap((s) => {
    const ys = [...s.querySelectorAll("text.end")].map((t) => +t.getAttribute("y"));
    ys.sort((a, b) => a - b);
    return ys.slice(1).map((y, i) => y - ys[i]);
  });
  const sticksOut = (inner, outer) => inner.left < outer.left - 1
    || inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1;
  seen.outside = all("main svg text").filter((t) =>
    sticksOut(t.getBoundingClientRect(), t.ownerSVGElement.getBoundingClientRect()));
  seen.outside = seen.outside.map((t) => t.textContent);
  const pre = document.createElement("pre");
  pre.id = "seen"; pre.textContent = JSON.stringify(seen);
  document.body.append(pre);
});
</script>
"""
Visit: TypeAlias = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    lost = ("OMP", 0.8)
    cells = [
        facts
        for name in ("CIFAR100", "DTD")
        for facts in grid(("VPNs", "HYDRA", "OMP", "Random"), (0.7, 0.8, 0.9, 0.95), dataset=name)
        if (facts["method"], facts["sparsity_requested"]) != lost or name == "DTD"
    ]
    cells += [result("Dense", seed=seed) for seed in (7, 9)]
    cells += [result(prompt=PAD | {"pad_size": pad}, grid="fig10_mini") for pad in (2, 8)]
    cells += grid(("VPNs w. Random", "VPNs w. a method with quite a long name"), grid="my_own")
    make_report([write(folder / "runs", *cells)], folder / "report")
    return folder / "report" / "index.html"


@pytest.fixture(scope="module")
def visit(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """Open the page with the probe inside; return what that saw and what the console said."""

    def open_page(*flags: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("visit")
        probed = folder / "index.html"
        probed.write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
        done = chromium(folder, "--dump-dom", *flags, probed.as_uri())
        found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.S)
        assert found is not None, done.stderr[-2000:]
        seen: dict[str, Any] = json.loads(html.unescape(found.group(1)))
        return seen | {"console": re.findall(r"CONSOLE.*", done.stderr)}

    return open_page


def chromium(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


@pytest.fixture(scope="module")
def seen(visit: Visit) -> dict[str, Any]:
    return visit("--window-size=1280,1000")


def test_the_console_stays_silent_and_nothing_is_loaded(seen: dict[str, Any]) -> None:
    assert seen["console"] == []
    assert seen["loads"] == []


def test_the_page_shows_curves_bands_the_dense_line_and_what_is_missing(
    seen: dict[str, Any],
) -> None:
    start = seen["start"]
    assert start["panels"] == ["CIFAR100, resnet18", "DTD, resnet18"]
    # a curve of each of four methods in two panels; that of OMP on CIFAR100 is broken
    # into a lone point, which has no line, and a piece of two
    assert start["curves"] == 8
    assert start["points"] == 4 * 4 * 2 - 1
    assert start["dense"] == 1
    assert sorted(start["ends"]) == sorted(["VPNs", "HYDRA", "OMP", "Random"] * 2 + ["Dense"])
    assert seen["missing"] == ["CIFAR100: OMP, 80 %: all seeds"]
    assert {"fig1", "fig8", "figA11"} <= set(seen["lacking"])
    assert "fig4" not in seen["lacking"]
    # the best of four levels in two tables
    assert len([text for text in seen["bold"] if "±" in text]) == 8


def test_the_page_has_the_differences_that_seeds_allow_to_tell(seen: dict[str, Any]) -> None:
    title = "CIFAR100, resnet18: VPNs minus the others"
    assert title in seen["start"]["captions"]
    assert title in seen["without OMP"]["captions"]
    assert not seen["no method"]["captions"]
    # rows of accuracies and of differences: VPNs is in the first alone
    rows = seen["start"]["rows"]
    assert rows.count("VPNs") == 2
    assert rows.count("OMP") == 4


def test_the_method_filter_changes_figures_tables_costs_layers_and_commands(
    seen: dict[str, Any],
) -> None:
    start, without = seen["start"], seen["without OMP"]
    assert without["curves"] == start["curves"] - 2
    assert set(without["ends"]) == {"VPNs", "HYDRA", "Random", "Dense"}
    assert "OMP" in start["rows"]
    assert "OMP" not in without["rows"]
    assert without["costs"] == start["costs"] - 7
    assert without["commands"] == start["commands"] - 14
    assert without["costTable"] == start["costTable"] - 7
    assert [name for name in start["layers"] if name != "OMP"] == without["layers"]
    assert seen["with OMP again"] == start


def test_the_data_set_filter_hides_its_panels_and_rows(seen: dict[str, Any]) -> None:
    start, without = seen["start"], seen["without DTD"]
    assert without["panels"] == ["CIFAR100, resnet18"]
    assert without["curves"] == 4
    assert len(without["rows"]) < len(start["rows"])
    assert seen["no method"]["curves"] == seen["no method"]["points"] == 0
    assert seen["no method"]["commands"] == 0
    assert seen["all methods"] == start


def test_the_cost_axis_can_be_chosen_and_points_explain_themselves(seen: dict[str, Any]) -> None:
    assert seen["axis"] >= 2
    assert re.fullmatch(r"\w+, 70 %\n\d\d\.\d\d ± \d\.\d\d \(2 seeds: 7, 9\)", seen["tip"])


def test_the_further_figures_are_on_the_page_with_their_files(
    seen: dict[str, Any], page: Path
) -> None:
    pictures = {name: rest for name, *rest in seen["pictures"]}
    assert list(pictures) == ["gain", "density", "accuracy_cost"]
    for name, (alt, width, caption, files) in pictures.items():
        assert width > 100, name
        assert "CIFAR100, resnet18" in alt
        assert len(caption) > len("Of all runs, whatever is chosen above.")
        assert files == [f"{name}.png", f"{name}.svg"]
        assert all((page.parent / file).is_file() for file in files)


@pytest.mark.parametrize(
    "flags",
    [("--window-size=1280,1000",), ("--window-size=390,844",)],
    ids=["desktop", "phone"],
)
def test_nothing_overlaps_or_sticks_out(visit: Visit, flags: tuple[str, ...]) -> None:
    seen = visit(*flags)
    width, window = seen["width"]
    assert width <= window
    assert min(seen["gaps"]) > 10
    assert seen["outside"] == []
    assert seen["unlabelled"] == 0


def test_light_and_dark_follow_the_reader(visit: Visit, seen: dict[str, Any]) -> None:
    dark = visit("--window-size=1280,1000", "--blink-settings=preferredColorScheme=0")
    assert seen["back"] == "rgb(255, 255, 255)"
    assert dark["back"] == "rgb(18, 22, 27)"
    assert dark["console"] == []


def test_a_picture_of_the_page_is_not_blank(page: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.png"
    chromium(tmp_path, f"--screenshot={file}", "--window-size=1000,1400", page.as_uri())
    with Image.open(file) as picture:
        shown = picture.convert("RGB")
        colors = {color: count for count, color in shown.getcolors(maxcolors=2**24) or []}
    # the blue of VPNs, and text
    assert colors.get((0x00, 0x72, 0xB2), 0) > 200
    assert len(colors) > 100
    assert max(colors.values()) < 0.95 * shown.width * shown.height
