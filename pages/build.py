"""`make site`: README, course, lessons, prints, results map, claims, data cards and the API as one folder
of HTML that opens from disk without a network, its links checked.

Pages are laid into a folder as they lie in the repository, links to notebooks lead to their prints,
files that are linked come along. Run in `.venv-site` (pages/requirements.txt).
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "dist" / "site"
LINK = re.compile(r"(!?\[[^\]]*\]\()([^()\s]+)(\))")
# A picture whose words stand in bold below it.
CAPTIONED = re.compile(r"!\[\](\(\S+\))(\n\n\*\*(.*?)\*\*)", re.DOTALL)
SINGLE = (
    "CONTRIBUTING.md",
    "LOG.md",
    "CHANGELOG.md",
    "reports/README.md",
    "reports/CLAIMS.md",
    "reports/weights/README.md",
    "reports/voice/README.md",
)
NOTEBOOK = re.compile(r"(?:notebooks/)?(\d\d_\w+)\.ipynb")


class SiteError(ValueError):
    """A site that cannot be built. One sentence: what, where, what to do."""


def pages() -> list[str]:
    """Every page of Markdown, and every print and lesson without one, by its place in the repository."""
    found = [p for p in SINGLE if (ROOT / p).is_file()]
    for folder in ("data_cards", "course"):
        inside = sorted((ROOT / folder).rglob("*.md"))
        found += [p.relative_to(ROOT).as_posix() for p in inside if p.parent.name != "slides"]
    return ["README.md", *found]


def prints() -> dict[str, list[str]]:
    """The prints of each notebook, `lesson` first; the notebook itself where there is none."""
    found = {}
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        own = sorted((ROOT / "reports" / "notebooks").glob(f"{notebook.stem}-world-*.ipynb"))
        found[notebook.stem] = [p.relative_to(ROOT).as_posix() for p in own or [notebook]]
    return found


def relinked(text: str, place: str, shown: dict[str, list[str]]) -> tuple[str, set[str]]:
    """A page with links as they are on the site, and the files that have to come along.

    Notebooks become their prints, the README the index, folders their README; a folder without one
    and a file outside lose the link.
    """
    needed = set()

    def change(found: re.Match) -> str:
        before, link, after = found.groups()
        if re.match(r"[a-z]+:|#", link):
            return found[0]
        path, mark, anchor = link.partition("#")
        target = (ROOT / place).parent.joinpath(unquote(path)).resolve()
        if not target.is_relative_to(ROOT) or not target.exists():
            return before[1:-2] if not before.startswith("!") else before[2:-2]
        inside = target.relative_to(ROOT)
        if target.is_dir():
            inside = inside / "README.md"
            if not (ROOT / inside).is_file():
                return before[1:-2]
        name = inside.as_posix()
        if name.startswith("course/solutions/"):
            return before[1:-2]  # readers of the site may be students
        if (own := NOTEBOOK.fullmatch(name)) and own[1] in shown:
            name = shown[own[1]][0]
        name = "index.md" if name == "README.md" else name
        needed.add(name)
        up = "../" * place.count("/")
        return f"{before}{up}{name}{mark}{anchor}{after}"

    return LINK.sub(change, text), needed


def lay(folder: Path) -> None:
    """Write the sources of the site into `folder`; solutions stay away."""
    import nbformat

    shown, needed = prints(), set()
    written = {"index.md" if p == "README.md" else p for p in pages()}
    for place in pages():
        text, more = relinked((ROOT / place).read_text(encoding="utf-8"), place, shown)
        needed |= more
        text = CAPTIONED.sub(lambda m: f"![{m[3].rstrip('.')}]{m[1]}{m[2]}", text)
        out = folder / ("index.md" if place == "README.md" else place)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + (_contents(shown) if place == "README.md" else ""), encoding="utf-8")
    sheets = sorted(
        p.relative_to(ROOT).as_posix() for p in (ROOT / "course").glob("student/*.ipynb")
    )
    for place in [*(p for own in shown.values() for p in own), *sheets]:
        notebook = nbformat.read(ROOT / place, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source, more = relinked(cell.source, place, shown)
                needed |= more
        # Whoever reads needs neither what installs on Colab nor the place for overrides.
        hidden = {"setup", "parameters", "injected-parameters"}
        notebook.cells = [c for c in notebook.cells if not hidden & {*c.metadata.get("tags", [])}]
        out = folder / place
        out.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, out)
        written.add(place)
    for name in needed - written:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def _contents(shown: dict[str, list[str]]) -> str:
    """The site's navigation, as hidden tables of contents."""
    cards = [p for p in pages() if p.startswith("data_cards")]
    course = [p for p in pages() if p.startswith("course")]
    lessons = [own[0] for n, own in shown.items() if n[0] == "0"]
    # Prints of one notebook share their title.
    others = [
        f"{n.replace('_', ' ')} ({scale}) <{place}>"
        for n, own in shown.items()
        if n[0] != "0"
        for place in own
        for scale in [
            place.rpartition("-")[2].removesuffix(".ipynb") if "-" in place else "not run"
        ]
    ]
    sheets = [f"Exercises {n} <course/student/session{n}.ipynb>" for n in range(1, 6)]
    parts = {
        "Lessons": lessons,
        "Course": [course[0], *sheets, *course[1:]],
        "Results": [p for p in SINGLE[3:] if (ROOT / p).is_file()],
        "Prints": others,
        "Data cards": cards,
        "Code": ["CONTRIBUTING.md", "LOG.md", "CHANGELOG.md", "api/vplib/index"],
    }
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:maxdepth: 1\n:caption: {name}\n"
        + "\n".join(re.sub(r"\.(md|ipynb)(>?)$", r"\2", p) for p in inside)
        + "\n```\n"
        for name, inside in parts.items()
    )


def plain_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings are plain text: what reStructuredText would read as marks is escaped."""
    text = "\n".join(lines)
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"([*_|\\])", r"\\\1", part) for part in parts[::2]]
    # An escaped blank lets a literal touch letters, as in a plural.
    parts[1::2] = [rf"\ ``{' '.join(part[1:-1].split())}``\ " for part in parts[1::2]]
    lines[:] = "".join(parts).split("\n")


class _Page(HTMLParser):
    """What a page links to, loads, names, and shows without words."""

    def __init__(self):
        super().__init__()
        self.links, self.loads, self.names, self.silent = [], [], set(), []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        told = dict(attributes)
        self.names |= {told[k] for k in ("id", "name") if told.get(k)}
        link = told.get("href") if tag in ("a", "link") else told.get("src")
        if tag in ("script", "img", "link", "iframe", "source") and link:
            self.loads.append(link)
        if link:
            self.links.append(link)
        if tag == "img" and not (told.get("alt") or "").strip():
            self.silent.append(told.get("src", ""))


def faults(site: Path) -> list[str]:
    """What is wrong with a built site: dead links, what comes from a network, pictures without words."""
    read, found = {}, []
    for path in sorted(site.rglob("*.html")):
        read[path] = _Page()
        read[path].feed(path.read_text(encoding="utf-8"))
    for path, page in read.items():
        here = path.relative_to(site)
        for link in page.loads:
            if re.match(r"(https?:)?//", link):
                found.append(f"{here} loads {link}: it would need a network")
        for link in page.links:
            if re.match(r"[a-z]+:|//", link):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / unquote(name.partition("?")[0])).resolve() if name else path
            if not target.is_file():
                found.append(f"{here} links to {link}: it is not there")
            elif anchor and target in read and unquote(anchor) not in read[target].names:
                found.append(f"{here} links to {link}: nothing there has that name")
        found += [f"{here} shows {src[:60]} without words" for src in page.silent]
    return found


def build(out: Path, source: Path) -> None:
    """The site at `out`, from pages that are laid into `source`. Raises SiteError."""
    import os

    lay(source)
    env = os.environ | {"VPLIB_SOURCE": str(ROOT / "vplib")}
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-c", str(ROOT / "pages")]
    made = source / "_made"
    done = subprocess.run(
        [*command, "-d", str(source / "_trees"), str(source), str(made)],
        env=env,
        capture_output=True,
        text=True,
    )
    print(done.stderr, end="", file=sys.stderr)
    if done.returncode:
        raise SiteError("Sphinx stopped, with what stands above")
    if wrong := faults(made):
        print("\n".join(wrong), file=sys.stderr)
        raise SiteError(f"{len(wrong)} faults, listed above: nothing was written to {out}")
    if out.exists():
        shutil.rmtree(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SITE)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        try:
            build(out, Path(folder))
        except (SiteError, OSError) as error:
            sys.exit(f"error: {error}")
    count = sum(1 for _ in out.rglob("*.html"))
    print(f"{out / 'index.html'}: {count} pages, every link leads somewhere")


if __name__ == "__main__":
    main()
