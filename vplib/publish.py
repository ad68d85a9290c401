"""`python -m vplib.publish OWNER/NAME`: writes where the repository lives into it, for Colab and
for badges: the setup cell and the badge of every notebook, print and exercise sheet, the badge of README.md.
"""

import json
import re
import sys
from pathlib import Path

from vplib import environment, files, paths

# The second code cell of every notebook. It takes nothing from vplib, which may be missing.
SETUP = """\
REPOSITORY = "{address}"  # owner/name on GitHub, for Colab: python -m vplib.publish writes it
try:
    import vplib  # noqa: F401
except ImportError:
    import os
    import sys

    if not (REPOSITORY and "COLAB_RELEASE_TAG" in os.environ):
        raise SystemExit("vplib is not installed: type pip install -e . in a clone of it") from None
    os.system(f"git clone -q https://github.com/{{REPOSITORY}} clone && pip install -q -e clone")
    os.chdir("clone")
    sys.path.insert(0, os.getcwd())\
"""
TAG = "setup"
COLAB = "https://colab.research.google.com"
_BADGE = re.compile(r"\n*\[!\[(?:Open in Colab|tests)\][^\n]*\n?")


def publish(address: str, root: Path) -> list[Path]:
    """Write `address` (owner/name on GitHub; empty takes it back) into the files of `root`.

    Returns those that changed. Raises ValueError for what is no address and for a notebook without
    a setup cell, FileError if one cannot be written.
    """
    if address and not re.fullmatch(r"[\w.-]+/[\w.-]+", address, re.ASCII):
        raise ValueError(f"{address} is no address: give OWNER/NAME, as GitHub shows it")
    badge = f"[![tests](https://github.com/{address}/actions/workflows/tests.yml/badge.svg)](https://github.com/{address}/actions)"
    readme = root / "README.md"
    title, _, rest = _read(readme).partition("\n")
    new = {readme: f"{title}\n{_badged(rest, address and badge)}"}
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    for path in [*notebooks, *sorted((root / "reports" / "notebooks").glob("*.ipynb"))]:
        source = re.sub(r"-(world|folder)-\w+$", "", path.stem)
        new[path] = written(_read(path), address, f"notebooks/{source}.ipynb")
    for path in sorted((root / "course").glob("s*/*.ipynb")):  # student, solutions
        place = path.relative_to(root).as_posix()
        new[path] = written(_read(path), address, place)
    changed = [path for path, text in new.items() if _read(path) != text]
    for path in changed:
        files.write(path, new[path])
    return changed


def _badged(text: str, badge: str) -> str:
    """`text`, which follows a title, with this badge in front and no other."""
    rest = _BADGE.sub("\n", f"\n{text.lstrip(chr(10))}", count=1).lstrip("\n")
    return f"\n{badge}\n\n{rest}" if badge else f"\n{rest}"


def written(text: str, address: str, source: str) -> str:
    """The notebook `text` with this address in its setup cell, and a badge that opens `source`.

    Raises ValueError for a notebook without a setup cell.
    """
    notebook = json.loads(text)
    cells = [c for c in notebook["cells"] if TAG in c["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{source} has {len(cells)} cells tagged {TAG}: it needs one")
    cells[0]["source"] = SETUP.format(address=address).splitlines(keepends=True)
    first = notebook["cells"][0]
    title, _, rest = "".join(first["source"]).partition("\n")
    badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{address}/blob/main/{source})"
    first["source"] = f"{title}\n{_badged(rest, address and badge)}".splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def address(notebook: Path) -> str:
    """The address that a notebook's setup cell has; empty if none was published."""
    cells = json.loads(_read(notebook))["cells"]
    (setup,) = (c for c in cells if TAG in c["metadata"].get("tags", []))
    return "".join(setup["source"]).partition('"')[2].partition('"')[0]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def main(words: list[str]) -> None:
    """`python -m vplib.publish OWNER/NAME`"""
    environment.write_any_letter()
    if len(words) != 1:
        sys.exit("usage: python -m vplib.publish OWNER/NAME")
    try:
        for path in publish(words[0], paths.ROOT):
            print(paths.short(path))
    except (ValueError, files.FileError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
