"""Build the documentation as a site: `python docs/build_site.py --out site`. Needs `pip install -e '.[docs]'`.

The pages are those of docs/, the notebooks of examples/ as tutorials, and every file that a page links to. A link that
leads nowhere, a name without a docstring and a page that the menu lacks are errors. Nothing is fetched, neither here
nor by the pages.
"""

import argparse
import base64
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")
FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"py": "python", "sh": "sh", "yaml": "yaml", "json": "json", "toml": "toml", "sbatch": "sh"}


class Pages:
    """The pages of a site, written into a folder as Markdown.

    Attributes:
      folder: where they are written. written: the files of the repository that are there already.
    """

    def __init__(self, folder: Path):
        self.folder, self.written = folder, set[Path]()

    def place(self, file: Path) -> Path:
        """Return the path of the page of a file of the repository, in `folder`."""
        if file.is_relative_to(DOCS):
            return file.relative_to(DOCS)
        inside = file.relative_to(ROOT)
        if inside.parts[0] == "examples":
            return Path("tutorials", inside.with_suffix(".md").name)
        return Path("source", inside if inside.suffix == ".md" else f"{inside}.md")

    def add(self, file: Path) -> None:
        """Write the page of a file, and of all that it links to.

        Raises:
          SystemExit: for a link to a file that does not exist.
        """
        page = self.place(file)
        if page in self.written:
            return
        self.written.add(page)
        target = self.folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".png", ".svg"):
            shutil.copy(file, target)
        elif page.parts[0] == "tutorials":
            target.write_text(self.linked(tutorial(file.with_suffix(".ipynb"), target), file, page))
        elif file.suffix == ".md":
            target.write_text(self.linked(file.read_text(), file, page))
        else:
            target.write_text(listing(file))

    def linked(self, text: str, file: Path, page: Path) -> str:
        """Return the text of a page with its links changed to the other pages, which are added."""
        parts = FENCE.split(text)
        parts[::2] = [LINK.sub(self.link_of(file, page), part) for part in parts[::2]]
        return "".join(parts)

    def link_of(self, file: Path, page: Path) -> Callable[[re.Match], str]:
        """Return a function that changes one link."""

        def changed(found: re.Match) -> str:
            words, link = found.groups()
            path, _, anchor = link.partition("#")
            if not path or "://" in link or link.startswith("mailto:"):
                return found[0]
            meant = (file.parent / path).resolve()
            if (self.folder / page.parent / path).is_file():  # a picture of a notebook
                return found[0]
            if not meant.exists():
                raise SystemExit(f"{file.relative_to(ROOT)}: the link {link} leads nowhere")
            self.add(meant)
            there = os.path.relpath(self.place(meant), page.parent)
            return f"{words}({there}{'#' * bool(anchor)}{anchor})"

        return changed


def listing(file: Path) -> str:
    """Return a page that shows a file or the names in a folder of the repository."""
    if file.is_dir():
        names = sorted(one.name for one in file.iterdir() if not one.name.startswith("__"))
        return "\n".join([f"# {file.relative_to(ROOT)}", "", *(f"- `{name}`" for name in names), ""])
    fence = "````"
    language = LANGUAGES.get(file.suffix[1:], "text")
    return f"# {file.relative_to(ROOT)}\n\n{fence}{language}\n{file.read_text().rstrip()}\n{fence}\n"


def tutorial(notebook: Path, page: Path) -> str:
    """Return a notebook with its output as Markdown; its pictures are written beside the page."""
    found, pictures = [], 0
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            found.append(cell.source)
            continue
        found.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            picture = output.get("data", {}).get("image/png")
            if picture:
                name = f"{page.stem}_{pictures}.png"
                pictures += 1
                (page.parent / name).write_bytes(base64.b64decode(picture))
                found.append(f"![Output of the code above]({name})")
            else:
                text = output.get("text") or output["data"]["text/plain"]
                found.append(f"```text\n{text.rstrip()}\n```")
    script = f"examples/{notebook.stem}.py"
    found.append(f"The whole of it as a script: [{script}](../{script}); as a notebook: `examples/{notebook.name}`.")
    return "\n\n".join(found) + "\n"


def build(out: Path) -> None:
    """Build the site into a folder, a new one or one with a site, which is replaced.

    Raises:
      SystemExit: for a folder with other files, and a page that the menu lacks.
      CalledProcessError: at a warning of the generator.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "index.html").is_file())):
        raise SystemExit(f"--out {out} holds other files than a site: give a new folder")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        pages, menu = Pages(folder / "docs"), (DOCS / "zensical.toml").read_text()
        for file in [*sorted(DOCS.rglob("*.md")), *sorted((ROOT / "examples").glob("*.ipynb"))]:
            if f'"{pages.place(file)}"' not in menu:
                raise SystemExit(f"docs/zensical.toml: the menu lacks {pages.place(file)}")
            pages.add(file)
        shutil.copy(DOCS / "zensical.toml", folder)
        shutil.copytree(DOCS / "style", folder / "docs" / "style")
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", "zensical.toml"]
        subprocess.run(command, cwd=folder, env=env, check=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder / "site", out)


def main() -> int:
    """Build the site; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("site"),
        help="the folder of the site; a site that is there is replaced (default site)",
    )
    try:
        build(parser.parse_args().out)
    except subprocess.CalledProcessError as err:
        return err.returncode or 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
