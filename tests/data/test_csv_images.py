"""Images named in a table: read as they are listed, or refused by the line."""

from pathlib import Path

import pytest

import toy_data
import vpns_lightning as vpns
from vpns_lightning.base.errors import UserError
from vpns_lightning.cli import main

ROWS = (
    *(f"photos/{index}.png,{'wolf' if index % 2 else 'ant'},train" for index in range(6)),
    *(f"photos/{index}.png,{'wolf' if index % 2 else 'ant'},test" for index in range(6, 10)),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for index in range(10):
        toy_data.noise(index, (9, 9)).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path


def table(
    root: Path, *rows: str, header: str = "path,label,split", name: str = "images.csv"
) -> str:
    (root / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(root)


def test_files_labels_and_splits_are_those_of_the_table(root: Path) -> None:
    data = vpns.CSVImages(table(root, *ROWS), input_size=9)
    train, test = data.split("train"), data.split("test")
    assert (data.num_classes, data.class_names) == (2, ("ant", "wolf"))
    assert list(train.labels) == [0, 1, 0, 1, 0, 1]
    assert [file.name for file in test.files] == ["6.png", "7.png", "8.png", "9.png"]
    assert train.image(3).tobytes() == toy_data.noise(3, (9, 9)).tobytes()
    assert not [*train.remarks, *test.remarks]
    assert data.check().images == {"train": 6, "test": 4}


def test_other_names_tabs_a_mark_of_bytes_and_absolute_paths_are_read(root: Path) -> None:
    rows = [
        row.replace("test", "Valid").replace(",", "\t").replace("photos", f"{root}/photos")
        for row in ROWS
    ]
    where = table(root, *rows, header="\ufefffile\tspecies\tfold", name="birds.tsv")
    columns = ("file", "species", "fold")
    data = vpns.CSVImages(where, table="birds.tsv", columns=columns, input_size=9)
    assert len(data.split("train")) == 6
    assert data.split("test").remarks == ["the test images are those of split 'valid'"]


def test_numbers_are_sorted_by_value(root: Path) -> None:
    rows = [f"photos/{index}.png,{(10, 9, 100)[index % 3]},train" for index in range(6)]
    data = vpns.CSVImages(table(root, *rows, "photos/7.png,9,val"))
    assert data.class_names == ("9", "10", "100")
    assert list(data.split("train").labels) == [1, 0, 2, 1, 0, 2]


def test_what_is_unused_or_in_both_splits_is_said(root: Path) -> None:
    data = vpns.CSVImages(
        table(root, *ROWS, "photos/0.png,ant,test", "photos/1.png,wolf,val"), input_size=9
    )
    assert data.split("test").remarks == [
        "1 of its images are training images too: photos/0.png",
        "images of split 'val' are not used",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            (*ROWS, "photos/1.png,,test"),
            r"images\.csv, line 12: expected a path, a label and a spl",
        ),
        ((*ROWS, "photos/1.png,ant,holdout"), r"line 12: .* got 'photos/1.png', 'ant' and 'holdo"),
        ((*ROWS, "photos/1.png,wulf,test"), r"image 4 has the label 'wulf', .*did you mean 'wolf'"),
        (ROWS[:6], r"no images of split test or val .*, but 6 of 'train'"),
        (
            ("elsewhere/1.png,a,train", "elsewhere/2.png,a,test"),
            r"none of .* image files .* is the",
        ),
    ],
)
def test_lines_that_mean_nothing_are_refused(
    rows: tuple[str, ...], message: str, root: Path
) -> None:
    with pytest.raises(UserError, match=message):
        vpns.CSVImages(table(root, *rows)).setup()


def test_another_header_is_refused_with_the_names_that_are_there(root: Path) -> None:
    where = table(root, *ROWS, header="filename,label,split")
    with pytest.raises(
        UserError, match=r"no column path; its first line names filename, label, sp"
    ):
        vpns.CSVImages(where)
    with pytest.raises(UserError, match=r"other\.csv not found, .* holds images.csv, photos"):
        vpns.CSVImages(where, table="other.csv")


def test_the_command_line_reads_a_table(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "check", "--data", "CSVImages", "--data.root", table(root, *ROWS)])
    assert "6 train, 4 test images" in capsys.readouterr().out
