"""What docs/results.md says of the files that the project writes."""

import re
from pathlib import Path

DOC = (Path(__file__).resolve().parents[1] / "docs" / "results.md").read_text(encoding="utf-8")


def documented(heading: str, introduction: str = "") -> list[str]:
    """Return the names in the first column of the first table after ``introduction`` in a section."""
    (section,) = (text for text in DOC.split("\n## ")[1:] if text.splitlines()[0] == heading)
    assert introduction in section, introduction
    table = section.split(introduction, 1)[1] if introduction else section
    rows = table[table.index("|---") :].split("\n\n")[0].splitlines()[1:]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
