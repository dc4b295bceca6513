"""Run directories as older versions of the store left them, and how a run of today finishes them.

Version 1 had no neuron faults, version 2 no inputs of an injection's own. The dumps are those of real runs of the commits
1efc783 and 3c5852f, one finished, one stopped half way each; the model is the file they ran.
"""

import base64
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.setup import Settings
from bitswap_onnx.faults.fault import Fault, Injection, Kind, Site

MODEL = base64.b64decode(
    "CAk6ewobCgF4CglmYy53ZWlnaHQSAXkiBk1hdE11bDoAEgNuZXQqKwgDCAIQAUIJZmMud2VpZ2h0ShgAACDAAADAvwAAAL8AAAA/AADAPwAAIE"
    "BaFAoBeBIPCg0IARIJCgMSAU4KAggDYhQKAXkSDwoNCAESCQoDEgFOCgIIAkIECgAQFEIRCg1jb20ubWljcm9zb2Z0EAE="
)

#: The hash of the list that version 1 ran.
FAULTS_1 = "9a025be182f3c9c46d967e230c2b5e89137575ac5a277215efc7964befaf8b2d"

TABLES = """
CREATE TABLE control (
    path INTEGER NOT NULL REFERENCES path, first INTEGER NOT NULL, inputs INTEGER NOT NULL, masked INTEGER NOT NULL,
    PRIMARY KEY (path, first)) WITHOUT ROWID;
CREATE TABLE injection (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, path INTEGER NOT NULL REFERENCES path, changes INTEGER NOT NULL);
CREATE TABLE outcome (
    position INTEGER NOT NULL REFERENCES injection, first INTEGER NOT NULL, inputs INTEGER NOT NULL,
    top_1_correct INTEGER, top_5_correct INTEGER, top_1_robust INTEGER, top_5_robust INTEGER, masked INTEGER,
    non_critical INTEGER, critical INTEGER, nonfinite INTEGER, critical_nonfinite INTEGER, sdc_5 INTEGER, sdc_10 INTEGER,
    sdc_20 INTEGER, per_input BLOB, scores BLOB,
    PRIMARY KEY (position, first)) WITHOUT ROWID;
CREATE TABLE path (number INTEGER PRIMARY KEY, tensors TEXT NOT NULL UNIQUE);
CREATE TABLE receipt (
    position INTEGER NOT NULL REFERENCES injection, row INTEGER NOT NULL, layer, tensor_index, bit, parameter, kind, value,
    clean_bits, faulty_bits, clean_value, faulty_value, effect, bit_class, tensor, element, mask,
    PRIMARY KEY (position, row)) WITHOUT ROWID;
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
"""

SETTINGS = {
    "engine": '"reference"',
    "lanes": '{"fc.weight": "whole"}',
    "notes": '["kernels: plain layout"]',
    "unit_length": "2",
    "golden": """{"network": "old", "model_file": "old.onnx", "fault_list": "given in memory", "dataset": "old",
        "data": "all 4 inputs of old.npz, with labels", "inputs": 4, "values_per_input": 2, "probabilities": false,
        "labels": "01c84f606ffe38ee77bd47a06e5aaca8182c5ba6a3d4e6084c2ea05a0d7d4892", "top_1_correct": 2,
        "top_5_correct": 4, "scores": "f1f1e67017b214fae98160ad8d0e1e6f581f32376e1ce5f60e5f09025b469ed5",
        "providers": ["CPUExecutionProvider"], "machine": "Intel(R) Xeon(R) Processor",
        "versions": {"onnxruntime": "1.31.1", "onnx": "1.23.2", "numpy": "2.4.6"}}""",
    "identity": f"""{{"model": "83110149732360657d6892a18b93c7bd216ef303006b63b9a9b682d93cc52ea6",
        "faults": "{FAULTS_1}",
        "data": "c9e2fed9bc8ff0f1f2448e606282f01a102c9a61f40a53723ac788c5a80cba36", "output": "y", "tolerance": null,
        "numerics": {{"provider": "cpu", "fusion": "framework", "layout": "plain", "tf32": "off", "threads": 1,
        "batch_size": 2}}, "bit_order": "lsb", "records": ["scores", "per_input"]}}""",
}

RECEIPTS = """
INSERT INTO path VALUES(0,'["fc.weight"]');
INSERT INTO injection VALUES(0,'flip',0,1),(1,'two',0,1),(2,'satisfied',0,0),(3,'late',0,1);
INSERT INTO receipt VALUES
(0,0,'fc','(0, 0)',30,'weight','flip',NULL,'0xc0200000','0x80200000','-2.5','-2.938736e-39','changed','exponent',
 'fc.weight',0,'40000000'),
(1,0,'fc','(1, 1)',31,'weight','flip',NULL,'0x3f000000','0xbf000000','0.5','-0.5','changed','sign',
 'fc.weight',3,'80000000'),
(1,1,'fc','(2, 0)',NULL,'weight','set','nan','0x3fc00000','0x7fc00000','1.5','nan','changed','',
 'fc.weight',4,'40000000'),
(2,0,'fc','(2, 1)',31,'weight','stuck_at_0',NULL,'0x40200000','0x40200000','2.5','2.5','none','sign',
 'fc.weight',5,'0'),
(3,0,'fc','(2, 1)',22,'weight','flip',NULL,'0x40200000','0x40600000','2.5','3.5','changed','mantissa',
 'fc.weight',5,'400000');
"""

#: What was there when the one was stopped.
HALF = """
INSERT INTO control VALUES(0,0,2,2);
INSERT INTO outcome VALUES
(0,0,2,1,2,0,2,0,0,2,0,0,0,2,2,X'0202',X'000020C0000000C00000003F00002040'),
(1,0,2,1,2,2,2,0,2,0,2,0,0,2,2,X'8181',X'0000C07F000000400000C07F00006040'),
(2,0,2,1,2,2,2,2,0,0,0,0,0,0,0,X'0000',X'00002041000000C00000B04000002040'),
(2,2,2,1,2,2,2,2,0,0,0,0,0,0,0,X'0000',X'0000803F0000E040000060C000003841');
"""

#: What the finished one has besides.
REST = """
INSERT INTO control VALUES(0,2,2,2);
INSERT INTO outcome VALUES
(0,2,2,1,2,2,2,0,2,0,0,0,0,0,0,X'0101',X'000060400000E0400000D04000003841'),
(1,2,2,1,2,0,2,0,0,2,2,2,0,2,2,X'8282',X'0000C07F0000A0400000C07F0000D040'),
(3,0,2,1,2,2,2,1,1,0,0,0,0,0,0,X'0100',X'000020410000A0C00000B04000002040'),
(3,2,2,1,2,2,2,0,2,0,0,0,0,0,0,X'0101',X'0000803F00002041000060C000008C41');
"""

#: results.csv of the finished one, as version 1 wrote it, but for the counts of `two`, which repeated on its second row.
RESULTS = """Injection,Layer,TensorIndex,Bit,n_injections,top_1_correct,top_5_correct,top_1_robust,top_5_robust,\
masked,non_critical,critical,nonfinite,critical_nonfinite,sdc_5,sdc_10,sdc_20,\
Parameter,Kind,Value,Site,Input,clean_bits,faulty_bits,clean_value,faulty_value,effect
flip,fc,"(0, 0)",30,4,2,4,2,4,0,2,2,0,0,0,2,2,weight,flip,,,,0xc0200000,0x80200000,-2.5,-2.938736e-39,changed
two,fc,"(1, 1)",31,4,2,4,2,4,0,2,2,4,2,0,4,4,weight,flip,,,,0x3f000000,0xbf000000,0.5,-0.5,changed
two,fc,"(2, 0)",,,,,,,,,,,,,,,weight,set,nan,,,0x3fc00000,0x7fc00000,1.5,nan,changed
satisfied,fc,"(2, 1)",31,4,2,4,4,4,4,0,0,0,0,0,0,0,weight,stuck_at_0,,,,0x40200000,0x40200000,2.5,2.5,none
late,fc,"(2, 1)",22,4,2,4,4,4,1,3,0,0,0,0,0,0,weight,flip,,,,0x40200000,0x40600000,2.5,3.5,changed
"""


VERSION_2 = f"""
ALTER TABLE injection ADD COLUMN inputs INTEGER;
ALTER TABLE receipt ADD COLUMN site;
ALTER TABLE receipt ADD COLUMN input;
CREATE INDEX receipt_input ON receipt (position, input) WHERE input IS NOT NULL;
PRAGMA user_version = 2;
UPDATE setting SET value = '{{"fc.weight": "whole", "@output:y": "whole"}}' WHERE key = 'lanes';
UPDATE setting SET value = replace(value, '{FAULTS_1}',
    '18d9bdce391b223a279afe7b67871cb38cd51e86fbfa8c9e61964b3fbee1c769') WHERE key = 'identity';
INSERT INTO path VALUES(0,'["fc.weight"]'),(1,'["@output:y"]');
INSERT INTO injection VALUES(0,'flip',0,1,NULL),(1,'satisfied',0,0,NULL),(2,'one',1,1,1),(3,'every',1,1,NULL);
INSERT INTO receipt VALUES
(0,0,'fc','(0, 0)',30,'weight','flip',NULL,'0xc0200000','0x80200000','-2.5','-2.938736e-39','changed','exponent',
 'fc.weight',0,'40000000','',NULL),
(1,0,'fc','(2, 1)',31,'weight','stuck_at_0',NULL,'0x40200000','0x40200000','2.5','2.5','none','sign',
 'fc.weight',5,'0','',NULL),
(2,0,'fc','(1,)',31,'','flip',NULL,'0x40e00000','0xc0e00000','7.0','-7.0','changed','sign',
 '@output:y',1,'ffffffff:80000000','output',2),
(3,0,'fc','(0,)',30,'','flip',NULL,'','','','','per input','exponent',
 '@output:y',0,'ffffffff:40000000','output',NULL);
"""

HALF_2 = """
INSERT INTO control VALUES(0,0,2,2),(1,0,2,2),(1,2,2,2);
INSERT INTO outcome VALUES
(0,0,2,1,2,0,2,0,0,2,0,0,0,2,2,X'0206',X'000020C0000000C00000003F00002040'),
(1,0,2,1,2,2,2,2,0,0,0,0,0,0,0,X'0400',X'00002041000000C00000B04000002040'),
(1,2,2,1,2,2,2,2,0,0,0,0,0,0,0,X'0004',X'0000803F0000E040000060C000003841'),
(3,0,2,2,2,1,2,0,1,1,0,0,0,2,1,X'0506',X'00002001000000C00000B00000002040'),
(3,2,2,2,2,1,2,0,1,1,1,1,0,1,1,X'8605',X'0000807F0000E0400000608000003841');
"""

REST_2 = """
INSERT INTO control VALUES(0,2,2,2);
INSERT INTO outcome VALUES
(0,2,2,1,2,2,2,0,2,0,0,0,0,0,0,X'0105',X'000060400000E0400000D04000003841'),
(2,2,1,1,1,0,1,0,0,1,0,0,0,1,1,X'06',X'0000803F0000E0C0');
"""

#: results.csv of the finished one, as version 2 wrote it.
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


def injections_2() -> list[Injection]:
    return [
        Injection("flip", (Fault("fc", (0, 0), 30),)),
        Injection("satisfied", (Fault("fc", (2, 1), 31, Kind.STUCK_AT_0),)),
        Injection("one", (Fault("fc", (1,), 31, site=Site.OUTPUT, input=2),)),
        Injection("every", (Fault("fc", (0,), 30, site=Site.OUTPUT),)),
    ]


def old_run(folder: Path, *parts: str) -> Path:
    """A run directory as version 1 left it, or as ``VERSION_2`` makes of it."""
    folder.mkdir()
    with sqlite3.connect(folder / "campaign.sqlite") as db:
        db.executescript(TABLES)
        db.executemany("INSERT INTO setting VALUES (?, ?)", SETTINGS.items())
        db.commit()
        db.executescript("".join(parts))
    db.close()
    return folder


def old_model(folder: Path) -> Path:
    (folder / "old.onnx").write_bytes(MODEL)
    np.savez(folder / "old.npz", x=np.arange(12, dtype=np.float32).reshape(4, 3) - 5, y=np.array([0, 1, 0, 1]))
    return folder / "old.onnx"


def finish(folder: Path, run: Path, resume: bool, listed: list[Injection] | None = None, **options: Any) -> None:
    settings = Settings(batch_size=2)
    run_campaign(
        old_model(folder),
        listed or injections(),
        run=run,
        settings=settings,
        resume=resume,
        workers=1,
        engine="reference",
        per_input=True,
        save_outputs=True,
        **options,
    )
