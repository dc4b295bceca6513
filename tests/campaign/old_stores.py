"""Runs that older versions of the store left, as dumps of real ones, and the model and lists that they ran.

``stores/version_4_*.sql``: runs of the commit 2dee328, of weights and of neurons, each finished and stopped half way.
"""

import base64
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault import Fault, Injection, Kind, Site

_STORES = Path(__file__).parent / "stores"

MODEL = base64.b64decode(
    "CAk6ewobCgF4CglmYy53ZWlnaHQSAXkiBk1hdE11bDoAEgNuZXQqKwgDCAIQAUIJZmMud2VpZ2h0ShgAACDAAADAvwAAAL8AAAA/AADAPwAAIE"
    "BaFAoBeBIPCg0IARIJCgMSAU4KAggDYhQKAXkSDwoNCAESCQoDEgFOCgIIAkIECgAQFEIRCg1jb20ubWljcm9zb2Z0EAE="
)

#: results.csv of `injections`, as the first version wrote it; there, the counts of `two` repeated on its second row.
RESULTS = """Injection,Layer,TensorIndex,Bit,n_injections,top_1_correct,top_5_correct,top_1_robust,top_5_robust,\
masked,non_critical,critical,nonfinite,critical_nonfinite,sdc_5,sdc_10,sdc_20,\
Parameter,Kind,Value,Site,Input,clean_bits,faulty_bits,clean_value,faulty_value,effect
flip,fc,"(0, 0)",30,4,2,4,2,4,0,2,2,0,0,0,2,2,weight,flip,,,,0xc0200000,0x80200000,-2.5,-2.938736e-39,changed
two,fc,"(1, 1)",31,4,2,4,2,4,0,2,2,4,2,0,4,4,weight,flip,,,,0x3f000000,0xbf000000,0.5,-0.5,changed
two,fc,"(2, 0)",,,,,,,,,,,,,,,weight,set,nan,,,0x3fc00000,0x7fc00000,1.5,nan,changed
satisfied,fc,"(2, 1)",31,4,2,4,4,4,4,0,0,0,0,0,0,0,weight,stuck_at_0,,,,0x40200000,0x40200000,2.5,2.5,none
late,fc,"(2, 1)",22,4,2,4,4,4,1,3,0,0,0,0,0,0,weight,flip,,,,0x40200000,0x40600000,2.5,3.5,changed
"""


#: results.csv of `neuron_injections`, as the second version wrote it.
RESULTS_2 = (
    RESULTS[: RESULTS.index("flip,fc")]
    + """flip,fc,"(0, 0)",30,4,2,4,2,4,0,2,2,0,0,0,2,2,weight,flip,,,,0xc0200000,0x80200000,-2.5,-2.938736e-39,changed
satisfied,fc,"(2, 1)",31,4,2,4,4,4,4,0,0,0,0,0,0,0,weight,stuck_at_0,,,,0x40200000,0x40200000,2.5,2.5,none
one,fc,"(1,)",31,1,1,1,0,1,0,0,1,0,0,0,1,1,,flip,,output,2,0x40e00000,0xc0e00000,7.0,-7.0,changed
every,fc,"(0,)",30,4,4,4,2,4,0,2,2,1,1,0,3,2,,flip,,output,all,,,,,per input
"""
)


def injections() -> list[Injection]:
    return [
        Injection("flip", (Fault("fc", (0, 0), 30),)),
        Injection("two", (Fault("fc", (1, 1), 31), Fault("fc", (2, 0), None, Kind.SET, "nan"))),
        Injection("satisfied", (Fault("fc", (2, 1), 31, Kind.STUCK_AT_0),)),
        Injection("late", (Fault("fc", (2, 1), 22),)),
    ]


def neuron_injections() -> list[Injection]:
    return [
        Injection("flip", (Fault("fc", (0, 0), 30),)),
        Injection("satisfied", (Fault("fc", (2, 1), 31, Kind.STUCK_AT_0),)),
        Injection("one", (Fault("fc", (1,), 31, site=Site.OUTPUT, input=2),)),
        Injection("every", (Fault("fc", (0,), 30, site=Site.OUTPUT),)),
    ]


def old_run(folder: Path, name: str) -> Path:
    """Make a run directory as an older version left it; ``name``: that of a dump."""
    folder.mkdir()
    with closing(sqlite3.connect(folder / "campaign.sqlite")) as db:
        db.executescript((_STORES / f"{name}.sql").read_text())
    return folder


def old_model(folder: Path) -> Path:
    """Write the model that the old runs ran, and its data beside it."""
    (folder / "old.onnx").write_bytes(MODEL)
    np.savez(folder / "old.npz", x=np.arange(12, dtype=np.float32).reshape(4, 3) - 5, y=np.array([0, 1, 0, 1]))
    return folder / "old.onnx"


def finish(folder: Path, run: Path, resume: bool, listed: list[Injection] | None = None, **options: Any) -> None:
    """Run a campaign to its end as the old ones began."""
    setup = prepare(old_model(folder), Settings(batch_size=2))
    run_campaign(
        setup,
        listed or injections(),
        options=RunOptions(
            run=run, resume=resume, workers=1, engine="reference", per_input=True, save_outputs=True, **options
        ),
    )
