"""Slides from one source: `course/slides/*.md` to HTML that needs nothing else.

`python -m vplib.course.slides` writes `course/slides/*.html`: pictures, formulas and style are inside the
file, no network is asked. `make slides` prints PDF from it. In a source `---` ends a slide, what
follows a line `Notes:` is for the speaker, and a line `$$...$$` is a formula. A slide of few words has
larger ones; on a screen of 1,280 by 720 no word of a slide is lower than 24 pixels.
"""

import base64
import functools
import html
import io
import math
import re
import sys
from pathlib import Path

import mistune

from vplib import environment, figures, files, paths
from vplib.course import drawings

SLIDES, DRAWN = paths.ROOT / "course" / "slides", paths.ROOT / "course" / "pictures"
MOST = 25  # slides of a session
ROOM, WIDE = 9, 43  # lines of large words on a slide, and letters of a line
MARKUP = re.compile(r"<!--.*?-->|[*`>#]")
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
STYLE = """
* { box-sizing: border-box }
html { scroll-snap-type: y mandatory; background: #f1f3f4 }
body { margin: 0; font-family: "DejaVu Sans", Verdana, Arial, sans-serif; color: #202124 }
section { min-height: 100vh; padding: 4.5vh 5vw 6vh; scroll-snap-align: start; background: #fff; line-height: 1.32;
  border-bottom: 1px solid #dadce0; font-size: min(4.7vh, 2.65vw); position: relative; display: flex; flex-direction: column }
h1, h2 { color: #174ea6; margin: 0; line-height: 1.2 } h1 { font-size: 2.2em } h2 { font-size: 1.3em; padding-bottom: .3em;
  border-bottom: .08em solid #d2e3fc }
.content { flex: 1; display: flex; flex-direction: column; justify-content: space-evenly } .large { font-size: 1.3em }
.medium { font-size: 1.14em }
img { width: 100%; max-height: 76vh; object-fit: contain; display: block; margin: 0 auto }
.both img { max-height: 58vh } p, ul, ol, table { margin: .35em 0 } ul, ol { padding-left: 1.4em } li { margin: .3em 0 } p:has(> img) { margin: .2em 0 }
img.formula { width: auto; max-width: 100% }
table { border-collapse: collapse; width: 100% } td, th { border: 1px solid #80868b; padding: .35em .7em; text-align: left }
th { background: #e8f0fe } code { background: #f1f3f4; padding: 0 .25em; font-size: .9em }
pre { background: #f1f3f4; padding: .6em; margin: .35em 0; overflow: auto; line-height: 1.4 } pre code { padding: 0 }
blockquote { margin: .35em 0; padding: .3em .9em; border-left: .3em solid #b84e00; background: #fef7f0 }
aside { display: none; margin-top: 1em; padding: .5em .9em; background: #fff8e1; font-size: .75em }
body.notes aside { display: block } .number { position: absolute; right: 2vw; bottom: 1.5vh; color: #5f6368; font-size: .72em }
@media print { @page { size: 320mm 180mm; margin: 0 } html { background: #fff }
  section { min-height: 0; height: 180mm; padding: 8mm 16mm 11mm; font-size: 8.5mm; break-after: page; border: 0 }
  section:last-of-type { break-after: auto } img { max-height: 137mm } .both img { max-height: 106mm } .number { right: 6mm; bottom: 3mm } aside { display: none } }
@media screen and (max-width: 700px) { section { font-size: 17px; padding: 24px 16px 44px; min-height: 0 }
  html { scroll-snap-type: none } table { display: block; overflow-x: auto } }
"""
SCRIPT = """
const all = [...document.querySelectorAll("section")];
const here = () => all.findIndex(s => s.getBoundingClientRect().bottom > innerHeight / 2);
addEventListener("keydown", e => {
  const step = {ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1}[e.key];
  if (step) { e.preventDefault(); (all[here() + step] || all[here()]).scrollIntoView(); }
  if (e.key === "n") document.body.classList.toggle("notes");
});
"""


class SlideError(ValueError):
    """A source that cannot be made into slides. One sentence: which, what, what to do."""


def split(text: str, name: str) -> list[tuple[str, str]]:
    """Slides and their notes, as Markdown. Raises SlideError: no notes, or too many slides."""
    found = []
    for k, part in enumerate(re.split(r"^---$", text, flags=re.MULTILINE), 1):
        slide, mark, notes = part.strip().partition("\nNotes:")
        if not mark or not notes.strip():
            raise SlideError(f"{name}, slide {k} has no notes: say below 'Notes:' what to say")
        found.append((slide.strip(), notes.strip()))
    if len(found) > MOST:
        raise SlideError(f"{name} has {len(found)} slides: at most {MOST} fit into a session")
    return found


def page(text: str, name: str, folder: Path) -> str:
    """The whole HTML page of a source whose pictures lie relative to `folder`.

    Raises SlideError as `split`, and for a picture that is not there or has no words beside it.
    """
    slides = split(text, name)
    render = mistune.create_markdown(escape=False, plugins=["table"])
    title = re.search(r"^# (.*)$", text, re.MULTILINE)
    if title is None:
        raise SlideError(f"{name} has no title: begin it with '# '")
    body = []
    for k, (slide, notes) in enumerate(slides, 1):
        heading, _, rest = slide.partition("\n")
        inside = _pictures(render(_formulas(rest)), name, folder)
        high, pictured = lines(rest), "![" in rest
        look = "large" if high < ROOM else "medium" if high < 1.3 * ROOM else ""
        look = ("both" if high else "") if pictured else look
        body.append(
            f'<section>\n{render(heading)}<div class="content {look}">\n{inside}</div>\n'
            f'<aside><b>Notes.</b> {render(notes)}</aside><span class="number">{k}</span>\n</section>'
        )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title[1])}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def lines(slide: str) -> float:
    """About how many lines of large words a slide's Markdown takes, beside its pictures."""
    total = 0.0
    for line in MARKUP.sub("", slide).splitlines():
        if re.fullmatch(r"[-| ]*|!\[.*", line):
            continue
        cells = line.strip("|").split("|")
        if line.startswith("$$"):
            total += 2.6
        else:
            longest = max(len(cell.strip()) for cell in cells) * len(cells)
            margins = 2 * len(cells) if len(cells) > 1 else 0
            total += math.ceil(longest / (WIDE - margins)) + (0.55 if margins else 0.35)
    return total


@functools.cache
def formula(tex: str) -> str:
    """A formula as SVG, drawn by Matplotlib. Raises SlideError for one that it cannot read."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    text = io.StringIO()
    look = {
        "mathtext.fontset": "dejavusans",
        "svg.fonttype": "path",
        "svg.hashsalt": "formula",
        "text.parse_math": True,
    }
    with rc_context(look):
        fig = Figure(figsize=(0.1, 0.1))
        fig.text(0, 0, f"${tex}$", size=20)
        try:
            fig.savefig(
                text, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None}
            )
        except ValueError as error:
            raise SlideError(
                f"the formula {tex} cannot be drawn: {str(error).splitlines()[-1]}"
            ) from None
    return text.getvalue()


def _formulas(slide: str) -> str:
    def draw(found: re.Match) -> str:
        drawn, alt = formula(found[1].strip()), html.escape(found[1].strip())
        data = base64.b64encode(drawn.encode()).decode()
        high = float(re.search(r'height="([\d.]+)pt"', drawn)[1]) / 17  # of letters of the slide
        look = f'class="formula" style="height: {high:.2f}em"'
        return f'<p><img {look} alt="{alt}" src="data:image/svg+xml;base64,{data}"></p>'

    return re.sub(r"^\$\$(.*?)\$\$$", draw, slide, flags=re.MULTILINE)


def _pictures(text: str, name: str, folder: Path) -> str:
    def embed(found: re.Match) -> str:
        source, alt = found[1], found[2]
        if source.startswith("data:"):
            return found[0]
        path = (folder / source).resolve()
        drawn = path.parent == DRAWN and path.stem in drawings.DRAWN
        if path.suffix not in TYPES or not (drawn or path.is_file()):
            raise SlideError(f"{name}: there is no picture {source} (png or svg)")
        if not alt:
            raise SlideError(f"{name}: the picture {source} has no words: ![what it shows](...)")
        inside = drawings.svg(path.stem).encode() if drawn else path.read_bytes()
        data = base64.b64encode(inside).decode()
        return f'<img src="data:{TYPES[path.suffix]};base64,{data}" alt="{alt}"'

    return re.sub(r'<img src="([^"]*)" alt="([^"]*)"', embed, text)


def build() -> dict[Path, str]:
    """Every picture of `drawings`, and every page, by its path. Raises SlideError as `page`."""
    made = {DRAWN / f"{name}.svg": drawings.svg(name) for name in drawings.DRAWN}
    figures.style()
    for path in sorted(SLIDES.glob("*.md")):
        text = page(path.read_text(encoding="utf-8"), path.name, SLIDES)
        made[path.with_suffix(".html")] = text
    return made


def main(words: list[str]) -> None:
    """What the module says."""
    environment.write_any_letter()
    if words:
        sys.exit("usage: python -m vplib.course.slides")
    try:
        for path, text in build().items():
            files.write(files.folder(path.parent) / path.name, text)
            print(f"{paths.short(path)}  {len(text) / 1e6:.2f} MB")
    except (SlideError, files.FileError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
