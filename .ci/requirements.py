"""Print what pyproject.toml requires to build, to run and to develop, one requirement a line.

So that these can be installed before the package itself is built, without isolation.
"""

import re
import tomllib
from pathlib import Path


def main() -> None:
    pyproject = tomllib.loads(Path("pyproject.toml").read_text())
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    lines = pyproject["build-system"]["requires"] + project["dependencies"]
    todo = ["dev"]
    while todo:
        for requirement in extras[todo.pop()]:
            if own := re.fullmatch(rf"{project['name']}\[(.*)\]", requirement):
                todo += own[1].split(",")
            else:
                lines.append(requirement)
    print("\n".join(sorted(set(lines))))


if __name__ == "__main__":
    main()
