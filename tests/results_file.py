"""Small results files, written by hand."""

from pathlib import Path

CLASSIC = "Injection,Layer,TensorIndex,Bit,n_injections,masked,non_critical,critical"
OURS = f"{CLASSIC},nonfinite,critical_nonfinite"


def results(folder: Path, *rows: str, header: str = CLASSIC) -> Path:
    path = folder / "r.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path
