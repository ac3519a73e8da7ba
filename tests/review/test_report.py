import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from overread.confidence.coverage import correlation, coverage_curve
from overread.metrics.summary import Summary, split_by_foreground, summarise
from overread.records import CaseConfidence
from overread.review.page_data import PictureLimits
from overread.review.report import CaseRow, EnsembleSummary, MemberRow, ReportData, write_report
from overread.review.views import CaseView, case_view

VIEW = case_view(
    np.zeros((8, 8, 4)),
    [("prediction", np.ones((8, 8, 4), np.uint8))],
    foreground=np.ones((8, 8, 4), np.uint8),
    slice_axis=2,
)
VOID = {"meta", "input", "img", "br", "line", "path", "circle", "polyline"}


class Page(HTMLParser):
    """The page as a reader meets it: its table and data, addresses, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.policy = ""
        self.code: dict[str, str] = {}
        """Text of the style and of the script."""
        self.handlers: list[str] = []
        """Attributes that the content security policy would not let run."""
        self._kind = ""
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""
        self.handlers += [name for name in found if name.startswith("on") or name == "style"]
        if tag in ("script", "style"):
            self._kind = found.get("id") or tag
        self.addresses += [found[k] or "" for k in ("src", "href", "action", "data") if k in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag
            self._kind = ""

    def handle_data(self, data: str) -> None:
        if self._kind in ("script", "style"):
            self.code[self._kind] = self.code.get(self._kind, "") + data
        elif self._kind:
            self.scripts[self._kind] = self.scripts.get(self._kind, "") + data
        else:
            self.text.append(data)

    @property
    def cases(self) -> list[str]:
        return list(json.loads(self.scripts["data"])["case"])

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def case(
    name: str,
    confidence: float | None,
    flag: str = "",
    dice: float | None = None,
    view: Callable[[], CaseView | None] | None = None,
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
    return CaseRow(confidence=row, dice=dice, dice_per_class={"organ": dice}, view=view)


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
            case("good", 0.9, dice=0.95, view=lambda: VIEW),
            case("bad", 0.4, dice=0.5, view=lambda: VIEW),
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
    assert "measured twice" in words


def test_what_members_bring_stands_in_their_table(tmp_path: Path) -> None:
    assert "contribution" not in written(tmp_path, full()).words
    (member,) = full().members
    gain = Summary(mean=0.0123, sd=None, n=4, low=-0.005, high=0.03)
    brings = replace(member, contribution=gain, error_correlation=0.375, class_weights=(0.75, 1.0, 0.5))
    other = replace(member, name="person")
    words = written(tmp_path, replace(full(), members=[brings, other])).words
    assert "locked Dice contribution 95 % interval error correlation" in words
    assert "unet-1 unet main 0.75 / 1 / 0.5 0.800 0.750 0.012 -0.005 to 0.030 0.375" in words


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = written(tmp_path, full())
    assert page.addresses
    assert all(a.startswith("#") for a in page.addresses)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}


def test_the_policy_allows_the_own_script_and_style_only(tmp_path: Path) -> None:
    page = written(tmp_path, full())
    allowed = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.code[kind].encode()).digest()).decode()
        assert allowed[f"{kind}-src"] == f"'sha256-{digest}'"
    assert allowed["default-src"] == allowed["base-uri"] == allowed["form-action"] == "'none'"
    assert allowed["img-src"] == "data:"
    assert page.handlers == []


def test_pictures_are_embedded_worst_first_within_their_limits(tmp_path: Path) -> None:
    made: list[str] = []

    def view(name: str) -> Callable[[], CaseView]:
        return lambda: made.append(name) or VIEW  # type: ignore[func-returns-value]

    cases = [case(name, c, view=view(name)) for name, c in (("a", 0.9), ("b", 0.1), ("c", 0.5))]
    page = written(tmp_path, ReportData(title="t", dataset="d", cases=cases, limits=PictureLimits(volumes=1)))
    assert made == ["b", "c", "a"]
    assert [json.loads(page.scripts[f"p{at}"])["shape"] for at in range(3)] == [[4, 8, 8], [1, 8, 8], [1, 8, 8]]
    assert "1 with the whole case, 2 with its key slice (0.0 MB)" in page.words


def test_the_worst_cases_stand_in_the_page_without_a_script(tmp_path: Path) -> None:
    cases = [case(f"case{at:02d}", at / 100) for at in range(60)]
    words = written(tmp_path, ReportData(title="t", dataset="d", cases=cases)).words
    assert "shows the 50 worst of 60 cases" in words
    assert "49 case48 0.480 50 case49 0.490" in words
    assert "case50" not in words


def test_new_cases_have_no_dice_and_no_curve(tmp_path: Path) -> None:
    page = written(tmp_path, ReportData(title="t", dataset="d", cases=[case("a", 0.5)]))
    assert "true Dice" not in page.words
    assert "#coverage" not in page.addresses
    assert "3 one mask per member" in page.words


def test_names_from_files_cannot_write_markup(tmp_path: Path) -> None:
    name = '<script>alert("1")</script>'
    page = written(tmp_path, ReportData(title=name, dataset=name, cases=[case(name, 0.5)], settings={name: name}))
    assert page.cases == [name]
    assert page.words.count(name) == 6  # as text: title, heading, data set, table, a setting and its value
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


def test_a_failing_picture_leaves_the_old_page(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")

    def broken() -> CaseView:
        raise OSError("no picture")

    with pytest.raises(OSError, match="no picture"):
        write_report(tmp_path / "report.html", ReportData(title="t", dataset="d", cases=[case("a", 0.5, view=broken)]))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_warnings_come_first(tmp_path: Path) -> None:
    data = ReportData(title="t", dataset="d", cases=[case("a", 0.5)], warnings=["Scores have shifted"])
    words = written(tmp_path, data).words
    assert words.index("Warning: Scores have shifted") < words.index("Flagged cases")


def test_predicted_dice_and_bound_stand_with_the_case(tmp_path: Path) -> None:
    def judged(name: str, bound: float | None) -> CaseRow:
        row = case(name, 0.5)
        return replace(row, confidence=replace(row.confidence, predicted_dice=0.875, dice_lower_bound=bound))

    page = written(tmp_path, ReportData(title="t", dataset="d", cases=[judged("a", 0.75)]))
    assert "1 a 0.500 0.875 0.750" in page.words
    page = written(tmp_path, ReportData(title="t", dataset="d", cases=[judged("a", None)]))
    assert "1 a 0.500 0.875 –" in page.words  # noqa: RUF001  (the page's dash)
    assert "predicted Dice" not in written(tmp_path, ReportData(title="t", dataset="d", cases=[case("a", 0.5)])).words
