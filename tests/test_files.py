"""Files that appear whole or not at all, and folders named by the time."""

import re
from pathlib import Path

from bitswap_onnx.files import folder_of_now


def test_folders_of_the_same_second_differ(tmp_path: Path) -> None:
    made = []
    for _ in range(5):
        made.append(folder_of_now(tmp_path))
        made[-1].mkdir()
    assert len(set(made)) == 5
    assert all(re.fullmatch(r"\d{6}_\d{6}(-\d)?", folder.name) for folder in made)
    assert any(folder.name.endswith("-2") for folder in made)
