"""Bring README.md up to the last run: the sentences of the stages, and docs/pages.png.

Run: python docs/record.py. Needs Chromium. Run `make run` first, so that both show what the code of
now says.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from modelkeep.core import pages, verdicts, workspace

PAGES = ("index", "evaluate", "monitor")
WIDTH, HEIGHT, SHOWN = 900, 1150, 560  # of a page in pixels; and its width in the picture
GAP, GREY = 16, (208, 212, 217)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def main() -> None:
    root = workspace.root(Path(__file__).parent)
    sentences(root)
    browser = shutil.which("chromium") or sys.exit("Chromium is not installed; install it first")
    with tempfile.TemporaryDirectory() as folder:
        shots = [shot(browser, root / "reports" / f"{page}.html", Path(folder)) for page in PAGES]
    height = max(each.height for each in shots)
    picture = Image.new("RGB", (len(shots) * (SHOWN + GAP) + GAP, height + 2 * GAP), GREY)
    for i, each in enumerate(shots):
        picture.paste(each, (GAP + i * (SHOWN + GAP), GAP))
    picture.quantize(64).save(root / "docs" / "pages.png", optimize=True)


def sentences(root: Path) -> None:
    """Write what each stage concluded into the README's block."""
    readme = root / "README.md"
    found = verdicts.read(root)
    lines = {stage: found[stage]["sentence"] for stage in pages.STAGES}
    text = readme.read_text()
    for stage, sentence in lines.items():
        text, times = re.subn(rf"^{stage}: .*$", f"{stage}: {sentence}", text, flags=re.MULTILINE)
        assert times == 1, f"README.md has {times} lines of {stage}"
    readme.write_text(text)


def shot(browser: str, page: Path, folder: Path) -> Image.Image:
    """The upper part of a page as a browser shows it, at the size of the picture."""
    to = folder / f"{page.stem}.png"
    words = [browser, *OPTIONS, f"--user-data-dir={folder}/profile", f"--screenshot={to}"]
    words += [f"--window-size={WIDTH},{HEIGHT}", page.resolve().as_uri()]
    subprocess.run(words, check=True, capture_output=True)
    with Image.open(to) as image:
        return image.convert("RGB").resize((SHOWN, round(SHOWN * image.height / image.width)))


if __name__ == "__main__":
    main()
