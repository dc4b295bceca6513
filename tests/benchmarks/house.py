"""The house in numbers: rooms, arrows and cycles of the imports, sizes, names that are defined more than once.

``python -m tests.benchmarks.house [CHECKOUT]`` reads the packages of a checkout (default: this one). A room is a module or a
folder directly below ``bitswap_onnx``, ``converters`` or ``models``. An arrow is an import of one room by another.
"""

import ast
import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path

from tests.source_tree import definitions, imports, modules, room

#: Names that every command has by convention.
CONVENTIONS = {"app", "command", "main"}


def main() -> None:
    checkout = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2]
    found = modules(checkout)
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in found.items()}
    members = Counter(room(name) for name in found if room(name) != "__init__")
    arrows = {(room(name), room(used)) for name, path in found.items() for used in imports(path, top_level=False)}
    arrows = {(a, b) for a, b in arrows if a != b and members[a] and members[b]}
    lengths = sorted(length for path in found.values() for length in function_lengths(path))
    tests = [len(path.read_text(encoding="utf-8").splitlines()) for path in (checkout / "tests").rglob("*.py")]
    homes: dict[str, list[str]] = defaultdict(list)
    for module, path in found.items():
        for name in definitions(path):
            homes[name].append(module)
    repeated = sorted(n for n, at in homes.items() if len(at) > 1 and not n.startswith("_") and n not in CONVENTIONS)
    print(f"modules: {len(found)}, lines: {sum(lines.values()):,}")
    print(f"rooms: {len(members)}; the largest, {members.most_common(1)[0][0]}, has {max(members.values())} modules")
    print(f"modules directly below bitswap_onnx: {len(list((checkout / 'bitswap_onnx').glob('[a-z]*.py')))}")
    print(f"arrows between rooms: {len(arrows)}; mutual: {sum(pair[::-1] in arrows for pair in arrows) // 2}")
    print(f"floors: {floors(set(members), arrows)}")
    print(f"modules: median {statistics.median(lines.values()):.0f} lines, largest {max(lines.values())}")
    print(
        f"functions: median {statistics.median(lengths):.0f} lines, nine of ten up to {lengths[len(lengths) * 9 // 10]}"
    )
    print(f"functions above 60 lines: {sum(n > 60 for n in lengths)}, above 35: {sum(n > 35 for n in lengths)}")
    print(f"test files above 400 lines: {sum(count > 400 for count in tests)}, largest {max(tests)}")
    print(f"public names defined more than once: {len(repeated)} {', '.join(repeated)}")


def function_lengths(path: Path) -> list[int]:
    """Return the lines of every function of a module."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [(node.end_lineno or 0) - node.lineno + 1 for node in nodes if isinstance(node, ast.FunctionDef)]


def floors(rooms: set[str], arrows: set[tuple[str, str]]) -> str:
    """Return the length of the longest chain of rooms, each of which imports the next; ``a cycle`` if it has no end."""
    height = dict.fromkeys(rooms, 0)
    for _ in range(len(rooms) + 1):
        previous = height
        height = {upper: 1 + max((previous[b] for a, b in arrows if a == upper), default=0) for upper in rooms}
    return str(max(height.values())) if height == previous else "a cycle"


if __name__ == "__main__":
    main()
