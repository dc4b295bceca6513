"""Every command and snippet of the README and of docs/ runs, in the order of its page; links lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bitswap_onnx.cli.main import main
from tests.command_line import Run, runner
from tests.docs_files import FILES

REPO = Path(__file__).parent.parent
PAGES = sorted(
    str(path.relative_to(REPO))
    for path in (REPO / "README.md", REPO / "fault_lists/README.md", *REPO.glob("docs/*.md"))
)
#: Pages whose commands need the exports of docs/models.md, and those that need PyTorch and Keras.
FROM_EXPORTS = ("docs/studies.md", "docs/statistics.md", "docs/agreement.md", "docs/howto.md")
EXPORTS = "docs/models.md"
FRAMEWORKS = ("README.md", "docs/python.md", EXPORTS, *FROM_EXPORTS)
MARKS = [
    pytest.mark.torch,
    pytest.mark.keras,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),  # of the frameworks
]


@dataclass(frozen=True)
class Snippet:
    """A block of a page; ``line``: the number of its first line."""

    language: str
    text: str
    line: int


def _snippets(page: str) -> Iterator[Snippet]:
    text = (REPO / page).read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Snippet(match[1], match[2], text.count("\n", 0, match.start()) + 2)


def _commands(snippet: Snippet) -> Iterator[list[str]]:
    for line in snippet.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def _check_known(words: list[str]) -> None:
    """Check what is not run here, since it takes too long or makes an environment: it must exist."""
    match words:
        case ["python", "-m", module, *_] if module.startswith("tests.benchmarks."):
            place = REPO / module.replace(".", "/")
            assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
        case ["make", target]:
            assert re.search(rf"^{target}:", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), target
        case ["pip", "install", "-c", "constraints.txt", "-e", project]:
            extras = re.fullmatch(r"\.\[(.*)\]", project)
            project_file = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
            assert extras
            assert set(extras[1].split(",")) <= set(project_file["project"]["optional-dependencies"])
        case ["source", ".venv/bin/activate"]:
            pass
        case _:
            raise AssertionError(f"no test knows the command {shlex.join(words)}")


def _run_in_shell(script: str) -> None:
    """Run a block that needs a shell; the command is the one of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-euc", script], env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def _run_page(page: str, folder: Path, run: Run) -> None:
    for name in ("models", "fault_lists"):
        (folder / name).symlink_to(REPO / name)
    for write in FILES.get(page, ()):
        write(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for snippet in _snippets(page):
        if snippet.language == "python":
            exec(compile("\n" * (snippet.line - 1) + snippet.text, str(REPO / page), "exec"), names)
        elif snippet.language == "bash" and "$(" in snippet.text:
            _run_in_shell(snippet.text)
            continue
        for words in _commands(snippet) if snippet.language == "bash" else ():
            if words[0] == "bitswap-onnx":
                code, out, err = run(*words[1:])
                assert code == 0, f"{page}: {shlex.join(words)}\n{out[-2000:]}\n{err[-2000:]}"
            else:
                _check_known(words)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the commands of `EXPORTS` have run."""
    folder = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _run_page(EXPORTS, folder, _bare_runner(patch))
    return folder


@pytest.fixture(autouse=True, scope="module")
def kept_verdicts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let commands find what others of this module have found on the same model, as they do for a reader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITSWAP_ONNX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _bare_runner(patch: pytest.MonkeyPatch) -> Run:
    """Return a `runner` that captures nothing: a fixture of a module has no capsys."""

    def run(*arguments: object) -> tuple[int, str, str]:
        patch.setattr(sys, "argv", ["bitswap-onnx", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), "", ""

    return run


@pytest.mark.parametrize("page", [page for page in PAGES if page not in FRAMEWORKS])
def test_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    _run_page(page, tmp_path, runner(monkeypatch, capsys))


@pytest.mark.parametrize("page", [pytest.param(page, marks=MARKS) for page in ("README.md", "docs/python.md")])
def test_page_with_frameworks(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _run_page(page, tmp_path, runner(monkeypatch, capsys))


@pytest.mark.parametrize("page", [pytest.param(page, marks=MARKS) for page in (EXPORTS, *FROM_EXPORTS)])
def test_page_of_exported_models(
    page: str, exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if page == EXPORTS:  # the fixture has run it
        assert (exports / "keras_faults.csv").is_file()
        return
    for path in exports.iterdir():
        if path.is_file() and path.suffix != ".csv":
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    _run_page(page, tmp_path, runner(monkeypatch, capsys))


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, "ARCHITECTURE.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (REPO / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        place = (REPO / page).parent / path if path else REPO / page
        assert place.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(_anchor, headings), target


def test_the_readme_has_two_pages() -> None:
    assert len((REPO / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_operators_that_become_keras_layers() -> None:
    from bitswap_onnx.converters.onnx_to_keras import SUPPORTED

    text = (REPO / "docs/models.md").read_text(encoding="utf-8")
    table = text.split("| ONNX operator | Keras layers |\n|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == [f"| `{operator}` | {layers} |" for operator, layers in SUPPORTED.items()]


def test_networks_of_the_zoo() -> None:
    from bitswap_onnx.models.zoo import ZOO

    text = (REPO / "docs/models.md").read_text(encoding="utf-8")
    for name, datasets in ZOO.items():
        for dataset in datasets:
            (row,) = (line for line in text.splitlines() if line.startswith(f"| {dataset} "))
            assert name in row


def test_every_command_stands_in_the_readme() -> None:
    from bitswap_onnx.cli.commands import COMMANDS, load_command

    text = (REPO / "README.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        for command in getattr(load_command(name), "commands", {}) or ("",):
            assert f"`{name} {command}".strip() in text
