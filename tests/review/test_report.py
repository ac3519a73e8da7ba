import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from overread.confidence.coverage import correlation, coverage_curve
from overread.metrics.summary import split_by_foreground, summarise
from overread.records import CaseConfidence
from overread.review import report
from overread.review.report import CaseRow, EnsembleSummary, MemberRow, Panel, ReportData, write_report

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "input", "img", "br", "line", "path", "circle", "polyline"}


class Page(HTMLParser):
    """The page as a reader meets it: cases in order, addresses, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cases: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "li" and "data-rank" in found:
            self.cases.append(found["data-name"] or "")
        self.addresses += [found[k] or "" for k in ("src", "href", "action", "data") if k in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def case(
    name: str, confidence: float | None, flag: str = "", dice: float | None = None, panel: Panel | None = None
) -> CaseRow:
    row = CaseConfidence(
        case=name,
        n_readings=3,
        flag=flag,
        foreground=0.25,
        relation_confidence=confidence,
        pairwise_dice=confidence,
        relation_confidence_per_class={"organ": confidence},
        pairwise_dice_per_class={"organ": confidence},
        scores={"c_12": 0.625},
    )
    return CaseRow(confidence=row, dice=dice, dice_per_class={"organ": dice}, panel=panel)


def written(tmp_path: Path, data: ReportData) -> Page:
    write_report(tmp_path / "report.html", data)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page


def full() -> ReportData:
    confidence, dice = [0.9, 0.4, 0.7, None], [0.95, 0.5, 0.8, 0.0]
    return ReportData(
        title="Report",
        dataset="phantom",
        cases=[
            case("good", 0.9, dice=0.95, panel=PNG),
            case("bad", 0.4, dice=0.5, panel=lambda: PNG),
            case("middle", 0.7, dice=0.8),
            case("lost", None, flag="all_empty", dice=0.0),
        ],
        members=[MemberRow(name="unet-1", architecture="unet", variant="main", validation_dice=0.8, locked_dice=0.75)],
        ensemble=EnsembleSummary(
            dice=summarise(dice),
            per_class={"organ": summarise(dice[:3])},
            foreground=split_by_foreground(dice, [True, True, True, False], [True, True, True, True]),
        ),
        correlations={"relation_confidence": correlation(confidence, dice)},
        coverage={"relation_confidence": coverage_curve(confidence, dice)},
        settings={"seed": "0"},
        notes=("measured twice",),
    )


def test_doubtful_cases_come_first_and_flagged_ones_before_them(tmp_path: Path) -> None:
    page = written(tmp_path, full())
    assert page.cases == ["lost", "bad", "middle", "good"]
    assert "⚑ all readings are empty" in page.words


def test_the_page_says_the_figures_with_their_n(tmp_path: Path) -> None:
    words = written(tmp_path, full()).words
    assert "Dice of the ensemble 0.562 4 cases" in words  # (0.95 + 0.5 + 0.8 + 0) / 4 = 0.5625
    assert "organ 0.750" in words
    assert "foreground was predicted in 1 of 1 (rate 1.000)" in words
    assert "relation confidence 1.000" in words  # Spearman: three cases in the same order
    assert "unet-1 unet main 1 0.800 0.750" in words
    assert "c 12 0.625" in words
    assert "measured twice" in words


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = written(tmp_path, full())
    assert page.addresses
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in page.addresses)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"] * text.count("<svg")
    assert "default-src 'none'" in text


def test_pictures_are_embedded_for_the_worst_cases_only(tmp_path: Path) -> None:
    made: list[str] = []

    def panel(name: str) -> Panel:
        return lambda: made.append(name) or PNG  # type: ignore[func-returns-value]

    cases = [case(name, c, panel=panel(name)) for name, c in (("a", 0.9), ("b", 0.1), ("c", 0.5))]
    page = written(tmp_path, ReportData(title="t", dataset="d", cases=cases, pictures=2))
    assert made == ["b", "c"]
    assert sum(a == f"data:image/png;base64,{base64.b64encode(PNG).decode()}" for a in page.addresses) == 2
    assert "1 more are left out" in page.words


def test_new_cases_have_no_dice_and_no_curve(tmp_path: Path) -> None:
    page = written(tmp_path, ReportData(title="t", dataset="d", cases=[case("a", 0.5)]))
    assert "true Dice" not in page.words
    assert "#coverage" not in page.addresses
    assert "3 one mask per member" in page.words


def test_names_from_files_cannot_write_markup(tmp_path: Path) -> None:
    name = '<script>alert("1")</script>'
    page = written(tmp_path, ReportData(title=name, dataset=name, cases=[case(name, 0.5)], settings={name: name}))
    assert page.cases == [name]
    assert "<script>alert" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_no_case_at_all_is_still_a_page(tmp_path: Path) -> None:
    assert "No cases." in written(tmp_path, ReportData(title="t", dataset="d", cases=[])).words


def test_the_order_follows_the_chosen_score(tmp_path: Path) -> None:
    swapped = case("a", 0.9)
    a = replace(swapped, confidence=replace(swapped.confidence, pairwise_dice=0.1))
    data = ReportData(title="t", dataset="d", cases=[case("b", 0.5), a], score="pairwise_dice")
    assert written(tmp_path, data).cases == ["a", "b"]


def test_one_case_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="different ids"):
        ReportData(title="t", dataset="d", cases=[case("a", 0.5), case("a", 0.6)]).ranked()


def test_a_failing_panel_leaves_the_old_page(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")

    def broken() -> bytes:
        raise OSError("no picture")

    with pytest.raises(OSError, match="no picture"):
        write_report(tmp_path / "report.html", ReportData(title="t", dataset="d", cases=[case("a", 0.5, panel=broken)]))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("", []),
        ("one_reading", ["only one reading"]),
        ("member_failed:a,b;all_empty", ["member failed: a,b", "all readings are empty"]),
    ],
)
def test_flags_in_words(flag: str, words: list[str]) -> None:
    assert report.flag_words(flag) == words


def test_the_legend_has_the_colours_of_the_pictures() -> None:
    assert dict(report.role_legend())["Truth"] == "rgb(86, 180, 233)"


def test_predicted_dice_and_bound_stand_with_the_case(tmp_path: Path) -> None:
    def judged(name: str, bound: float | None) -> CaseRow:
        row = case(name, 0.5)
        return replace(row, confidence=replace(row.confidence, predicted_dice=0.875, dice_lower_bound=bound))

    page = written(tmp_path, ReportData(title="t", dataset="d", cases=[judged("a", 0.75)]))
    assert "predicted Dice 0.875, at least 0.750" in page.words
    page = written(tmp_path, ReportData(title="t", dataset="d", cases=[judged("a", None)]))
    assert "predicted Dice 0.875" in page.words and "at least" not in page.words
    assert "predicted Dice" not in written(tmp_path, ReportData(title="t", dataset="d", cases=[case("a", 0.5)])).words
