"""The documentation is tried: its programs run, its links lead somewhere, its names exist."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("**/*.md"))]

# A block is marked by the comment before it: `<!-- file: NAME -->` is written to NAME, and
# `<!-- run -->` is a script that runs in the folder of these files.
BLOCK = re.compile(r"<!-- (file|run)(?:: (\S+))? -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# A variable that the code reads or sets is a literal there; the names of macros are not.
IN_CODE = re.compile(r"""["'](ZEROHOP_[A-Z_]+)["'=]""")
IN_TEXT = re.compile(r"`(ZEROHOP_[A-Z_]+)\b")


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(file or run, name, text) of the marked blocks."""
    return BLOCK.findall(page.read_text())


def sources() -> Iterator[Path]:
    for folder in ("runtime", "transport", "codegen"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".c", ".h"):
                yield path


def environment(registry: Path) -> dict[str, str]:
    """A user's, with this Python's commands first on PATH and a registry of its own."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "ZEROHOP_REGISTRY": str(registry)}


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder / "registry"),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_the_start_in_the_readme_runs(tmp_path: Path) -> None:
    written, said, greetings = 0, "", 0
    for kind, name, text in blocks(README):
        if kind == "file":
            (tmp_path / name).write_text(text)
            written += 1
        elif name and importlib.util.find_spec(f"zerohop.{name}") is None:
            continue
        else:
            done = run(["bash", "-e", "-c", text], tmp_path)
            assert done.returncode == 0, done.stderr
            said += done.stdout
            greetings += len(re.findall(r"^python \w*client\.py$", text, re.MULTILINE))
    assert written == 5
    assert said.count("Hello, Anna!") == greetings
    assert "1 call over shared memory" in said


def test_the_samples_in_the_readme_exist() -> None:
    for path in re.findall(r"\b(samples/[\w/.]+\w)", README.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("command", ["run", "ps", "doctor", "bench", "net"])
def test_the_commands_exist(command: str, tmp_path: Path) -> None:
    assert f"`zerohop {command}" in README.read_text()
    zerohop = shutil.which("zerohop", path=environment(tmp_path)["PATH"])
    assert zerohop is not None
    done = run([zerohop, command, "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    options = set(re.findall(rf"zerohop {command} (--[\w-]+)", README.read_text()))
    assert all(option in done.stdout for option in options)


def test_the_targets_of_make_exist() -> None:
    made = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"^(?:`|)make ([a-z-]+)", README.read_text(), re.MULTILINE)
    assert set(named) <= set(made)


def test_environment_variables_are_documented() -> None:
    in_code = {name for path in sources() for name in IN_CODE.findall(path.read_text())}
    in_text = {name for page in PAGES for name in IN_TEXT.findall(page.read_text())}
    assert in_text == in_code


def test_counters_are_documented() -> None:
    import zerohop

    table = README.read_text().partition("| counter |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(zerohop.stats())


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have on GitHub."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
