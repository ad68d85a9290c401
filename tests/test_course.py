"""The course's words: plans add up, slides and quizzes are those of their sources, links and terms are there."""

import json
import re
import zlib
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Text
from test_readme import dead

from vplib import figures, paths
from vplib.course import check, drawings, quiz, sheets, slides

COURSE = paths.ROOT / "course"
SESSIONS = ("session1", "session2", "session3")  # with slides
OTHERS = sorted({*check.SESSIONS} - {*SESSIONS})  # with the lesson alone
PAGES = sorted(COURSE.rglob("*.md"))


@pytest.mark.parametrize("session", SESSIONS)
def test_a_plan_adds_up_to_ninety_minutes_and_shows_every_slide(session):
    plan = (COURSE / f"{session}.md").read_text()
    rows = re.findall(
        r"^\| (\d+) \|.*\| (\d+)-(\d+)|^\| (\d+) \|.*\| (\d+) \|$", plan, re.MULTILINE
    )
    minutes = [int(a or b) for a, _, _, b, _ in rows]
    assert sum(minutes) == 90 and 40 in minutes
    shown = {
        k for _, first, last, _, one in rows for k in range(int(first or one), int(last or one) + 1)
    }
    source = (COURSE / "slides" / f"{session}.md").read_text()
    assert shown == set(range(1, len(slides.split(source, session)) + 1))
    complete(plan)


def complete(plan: str) -> None:
    for part in ("Objectives", "Questions to ask", "Board", "Exit ticket", "Homework"):
        assert part in plan
    assert len(re.findall(r"^\d\. \*", plan, re.MULTILINE)) == 3  # the exit ticket, with answers


@pytest.mark.parametrize("session", OTHERS)
def test_a_plan_without_slides_adds_up_and_names_the_lessons_sections_in_their_order(session):
    plan = (COURSE / f"{session}.md").read_text()
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]*)\|$", plan, re.MULTILINE)
    minutes = [int(m) for m, _ in rows]
    assert sum(minutes) == 90 and 40 in minutes
    (lesson,) = {*re.findall(r"notebooks/(0\d_\w+)\.ipynb", plan)}
    cells = json.loads((paths.NOTEBOOKS / f"{lesson}.ipynb").read_text())["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    named = [name for _, where in rows for name in re.findall(r'"([^"]+)"', where)]
    at = [next(k for k, h in enumerate(headings) if h.startswith(name)) for name in named]
    assert len(at) >= 5 and at == sorted(at)
    complete(plan)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: paths.short(page))
def test_links_of_the_course_lead_somewhere(page):
    assert dead(page) == []


@pytest.mark.parametrize("kind", ["student", "solutions"])
def test_links_of_the_sheets_lead_somewhere(kind, tmp_path):
    for path in (COURSE / kind).glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        links = re.findall(r"\]\((\.\.?/[^)\s]+)\)", text)
        assert links and all((path.parent / link).resolve().exists() for link in links)


def test_the_glossary_is_in_order_names_its_lessons_and_has_the_terms_of_the_course():
    text = (COURSE / "glossary.md").read_text()
    terms = re.findall(r"^- \*\*(.+?)\*\*: .+ \((\d\d)\)$", text, re.MULTILINE)
    names = [term.lower() for term, _ in terms]
    assert len(names) == text.count("- **") >= 45 and names == sorted(names)
    notebooks = {p.name[:2] for p in paths.NOTEBOOKS.glob("*.ipynb")}
    assert {lesson for _, lesson in terms} <= notebooks
    for word in (
        "InfoNCE",
        "BEVT",
        "attention pooling",
        "R@1",
        "probe",
        "teacher",
        "chance",
        "slot",
    ):
        assert any(word.lower() in name for name in names), word


def test_slides_are_those_of_their_sources():
    made = slides.build()
    assert {p.stem for p in made if p.suffix == ".html"} == {*SESSIONS}
    for path, text in made.items():
        assert path.read_text() == text, f"{path.name}: type make slides"
    assert {p.name for p in slides.DRAWN.iterdir()} == {f"{name}.svg" for name in drawings.DRAWN}


def printed(path) -> int:
    """The pages of a PDF."""
    data = path.read_bytes()
    assert data.startswith(b"%PDF")
    packed = re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL)
    for part in packed:
        try:
            data += zlib.decompress(part)
        except zlib.error:
            continue
    return len(re.findall(rb"/Type ?/Page\b", data))


@pytest.mark.parametrize("session", SESSIONS)
def test_a_slide_is_a_page_so_nothing_is_cut_off(session):
    """What does not fit goes onto a second page."""
    source = (COURSE / "slides" / f"{session}.md").read_text()
    assert printed(COURSE / "slides" / f"{session}.pdf") == len(slides.split(source, session))


def test_type_on_slides_is_24_of_1280_pixels_or_more():
    """Of words, of pictures where they stand, and of diagrams."""
    unit, least = re.search(
        r"section \{[^}]*font-size: min\(([\d.]+)vh, ([\d.]+)vw\)", slides.STYLE
    ).groups()
    body = min(7.2 * float(unit), 12.8 * float(least))
    smaller = [
        float(s)
        for s in re.findall(
            r"(?:td|th|p|li|ul|pre|code|blockquote)[^{}]*\{[^}]*font-size: ([\d.]+)em", slides.STYLE
        )
    ]
    assert min([1, *smaller]) * body >= 24
    drawings.style()
    for session in SESSIONS:
        source = (COURSE / "slides" / f"{session}.md").read_text()
        for slide, _ in slides.split(source, session):
            for name in re.findall(r"\.\./pictures/(\w+)\.svg", slide):
                assert name in drawings.DRAWN
                beside = slides.lines(slide.partition("\n")[2])
                svg = (slides.DRAWN / f"{name}.svg").read_text()
                wide, high = (
                    float(x) / 72 for x in re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups()
                )
                assert (
                    wide == pytest.approx(drawings.WIDE)
                    and 100 * high <= (0.58 if beside else 0.76) * 720
                )


@pytest.mark.parametrize("name", drawings.DRAWN)
def test_pictures_on_slides_have_large_type_and_colours_that_can_be_seen(name):
    with plt.rc_context():
        drawings.style()
        fig = drawings.DRAWN[name]()
        fig.canvas.draw()
        shown = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]
        assert shown and min(t.get_fontsize() for t in shown) * 100 / 72 >= 24
        lines = [
            line.get_color()
            for ax in fig.axes
            for line in ax.lines
            if line.get_linestyle() != "None"
        ]
        plt.close(fig)
    assert all(figures.contrast(color) >= 3 for color in lines)


class Loads(HTMLParser):
    def __init__(self):
        super().__init__()
        self.pictures = []

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        assert tag not in ("link", "iframe") and not (tag == "script" and "src" in told)
        if tag == "img":
            self.pictures.append(told)


@pytest.mark.parametrize("session", SESSIONS)
def test_slides_need_nothing_else_and_every_picture_has_words(session):
    text = (COURSE / "slides" / f"{session}.html").read_text()
    page = Loads()
    page.feed(text)
    assert len(page.pictures) >= 3 and "http" not in re.sub(r"base64,[\w+/=]+", "", text)
    assert all(p["src"].startswith("data:image/") and len(p["alt"]) > 8 for p in page.pictures)
    assert text.count("<section") == text.count("<aside>") <= slides.MOST


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("# A\n", "slide 1 has no notes"),
        ("# A\n\nNotes:\nb\n---\n## C\n\nNotes:\n", "slide 2 has no notes"),
        ("---\n".join(["# A\n\nNotes:\nb\n"] * 26), "has 26 slides"),
        ("## A\n\nNotes:\nb\n", "has no title"),
        ("# A\n\n![x](gone.png)\n\nNotes:\nb\n", "there is no picture gone.png"),
        ("# A\n\n![](a.svg)\n\nNotes:\nb\n", "a.svg has no words"),
        ("# A\n\n$$\\frac{1$$\n\nNotes:\nb\n", "cannot be drawn"),
        ("# A\n\n![x](../pictures/bars.svg)\n\nNotes:\nb\n", "no picture ../pictures/bars.svg"),
    ],
)
def test_a_slide_with_a_fault_gets_one_sentence(source, sentence, tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>")
    with pytest.raises(slides.SlideError) as error:
        slides.page(source, "s.md", tmp_path)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_diagrams_have_a_text_equivalent():
    found = sorted((COURSE / "diagrams").glob("*.svg"))
    assert len(found) == 5
    for path in found:
        text = path.read_text()
        assert len(re.search(r"<desc.*?>(.*?)</desc>", text, re.DOTALL)[1]) > 100
        assert "<title" in text and "http" not in text.replace("http://www.w3.org/2000/svg", "")
        sizes = [float(s) for s in re.findall(r'font-size="([\d.]+)"', text)]
        assert min(sizes) * 1152 / 1000 >= 24  # as wide as a slide


def test_quizzes_are_those_of_their_sources():
    made = quiz.build()
    assert {p.stem for p in made} == {*check.SESSIONS}
    for path, text in made.items():
        assert path.read_text() == text, f"{path.name}: type python -m vplib.course.quiz"


@pytest.mark.parametrize("session", check.SESSIONS)
def test_a_quiz_has_ten_questions_and_explains_every_answer(session):
    questions = quiz.read((quiz.QUIZZES / f"{session}.yaml").read_text(), session)
    assert len(questions) == 10
    gift, page = quiz.gift(questions, "Q"), quiz.markdown(questions, "Q")
    assert len(re.findall(r"^  =", gift, re.MULTILINE)) == 10 == page.count("**right.**")
    first = [re.search(r"^  (.)", part, re.MULTILINE)[1] for part in gift.split("::Q ")[1:]]
    assert 0 < first.count("=") < 10  # the right answer has no place of its own
    for one in questions:
        for _, why in (one["right"], *one["wrong"]):
            assert str(why).endswith(".") and len(str(why)) > 8
    # What is between unescaped signs is the answer and its reason, no more.
    for line in re.findall(r"^  [=~].*$", gift, re.MULTILINE):
        assert len(re.findall(r"(?<!\\)[~=#{}]", line)) == 2


GOOD = "[{ask: a, right: [b, c], wrong: [[d, e], [f, g]]}]"


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("a: [", "is not YAML"),
        ("a", "must be a list"),
        ("[]", "must be a list"),
        (GOOD.replace("ask: a, ", ""), "question 1 must have ask, right and wrong"),
        (GOOD.replace(", [f, g]", ""), "needs one right and two wrong"),
        (GOOD.replace("[d, e]", "[d, e, f]"), "needs one right and two wrong"),
        (GOOD.replace("[d, e]", "[b, e]"), "has an answer twice"),
    ],
)
def test_a_quiz_with_a_fault_gets_one_sentence(text, sentence):
    assert quiz.read(GOOD, "q")
    with pytest.raises(quiz.QuizError, match=sentence):
        quiz.read(text, "q")


def test_the_lecturers_page_names_everything():
    page = (COURSE / "README.md").read_text()
    for path in [
        *COURSE.glob("*.md"),
        *(COURSE / "slides").glob("*.html"),
        *(COURSE / "student").glob("*"),
    ]:
        assert path.name == "README.md" or f"({path.relative_to(COURSE).as_posix()})" in page, (
            path.name
        )
    assert {p.stem for p in sheets.SOURCES.glob("*.py")} == {*check.SESSIONS}
