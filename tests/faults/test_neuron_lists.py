"""Lists of neuron faults: every form is read, one is written; lists of weights keep their reading and hash."""

import hashlib
from pathlib import Path

import pytest

from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.fault import Fault, Injection, Kind, Site
from bitswap_onnx.faults.fault_list import has_neurons, list_fingerprint, read_fault_list, write_fault_list

SFI = "Injection,LayerName,LayerIndex,FeatureMapIndex,Value\n"


def listed(folder: Path, text: str) -> list[Injection]:
    path = folder / "f.csv"
    path.write_text(text, encoding="utf-8")
    return list(read_fault_list(path))


def neuron(index: tuple[int, ...], bit: int | None = 3, **options: object) -> Fault:
    return Fault("conv1", index, bit, **{"site": Site.OUTPUT} | options)  # type: ignore[arg-type]


def setting(index: tuple[int, ...], value: str) -> Fault:
    return Fault("conv1", index, None, Kind.SET, value, site=Site.OUTPUT)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ('a,conv1,output,"(1, 2, 3)",3,,', neuron((1, 2, 3))),
        ('a,conv1,output,"(1, 2, 3)",3,all,', neuron((1, 2, 3))),
        ('a,conv1,output,"[1,2,3]",3,0,', neuron((1, 2, 3), input=0)),
        ("a,conv1,input,7,3,12,flip", neuron((7,), site=Site.INPUT, input=12)),
        ("a,conv1,output,(),3,12,", neuron((), input=12)),
        ('a,conv1,output,"(4,)",30,12,stuck_at_1', neuron((4,), 30, kind=Kind.STUCK_AT_1, input=12)),
        ('a,conv1,,"(1, 2, 3)",3,,', Fault("conv1", (1, 2, 3), 3)),
    ],
)
def test_rows_of_our_own(row: str, expected: Fault, tmp_path: Path) -> None:
    (injection,) = listed(tmp_path, f"Injection,Layer,Site,Index,Bit,Input,Kind\n{row}\n")
    assert injection == Injection("a", (expected,))
    assert has_neurons([injection]) == (expected.site is not None)
    (again,) = listed(tmp_path, f"Injection,Layer,TensorIndex,Bit,Kind,Input,Site\n{_shuffled(row)}\n")
    assert again == injection


def _shuffled(row: str) -> str:
    """The same cells under a header in another order."""
    identifier, layer, site, *_ = row.split(",")
    *_, bit, inputs, kind = row.split(",")
    index = row[len(f"{identifier},{layer},{site},") : -len(f",{bit},{inputs},{kind}")]
    return f"{identifier},{layer},{index},{bit},{kind},{inputs},{site}"


@pytest.mark.parametrize(
    ("row", "faults"),
    [
        ('0,conv1,3,"(1, 2, 3)",4.5', [setting((1, 2, 3), "4.5")]),
        ('0,conv1,3,"(1,2,3)",-1e-3', [setting((1, 2, 3), "-1e-3")]),
        ('0,conv1,3,"[(1, 2, 3)]",[4.5]', [setting((1, 2, 3), "4.5")]),
        (
            '0,conv1,3,"[(1, 2, 3), (0, 0, 0)]","[4.5, nan]"',
            [setting((1, 2, 3), "4.5"), setting((0, 0, 0), "nan")],
        ),
        ('0,conv1,3,"[(1,), (2,)]","[0.0,-inf]"', [setting((1,), "0.0"), setting((2,), "-inf")]),
        ('0,conv1,3,"(5,)",1', [setting((5,), "1")]),
        ("0,conv1,3,5,1", [setting((5,), "1")]),
    ],
)
def test_rows_of_sfiadvancedmodels(row: str, faults: list[Fault], tmp_path: Path) -> None:
    assert listed(tmp_path, f"{SFI}{row}\n") == [Injection("0", tuple(faults))]
    assert read_fault_list(tmp_path / "f.csv").may_have_neurons


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{SFI}0,conv1,3,"[(1, 2), (0, 0)]",4.5', "f.csv:2: expected a Value per FeatureMapIndex, found 2 and 1"),
        (f'{SFI}0,conv1,3,"(1, 2)","[4.5, 3]"', "f.csv:2: expected a Value per FeatureMapIndex, found 1 and 2"),
        (f"{SFI}0,conv1,3,,4.5", "f.csv:2: TensorIndex '' is no index"),
        (f'{SFI}0,conv1,3,"(1, -2)",4.5', r"f.csv:2: TensorIndex '\(1, -2\)' is no index"),
        (f'{SFI}0,conv1,3,"(1, 2)",big', "f.csv:2: a set fault takes a number or a 0x bit pattern as Value"),
        (f'{SFI}0,,3,"(1, 2)",1', "f.csv:2: expected a layer name"),
        ("Injection,LayerName,FeatureMapIndex\n0,conv1,0", "f.csv:1: .*missing Value"),
        ("Injection,Layer,Site,Index,Bit\n0,conv1,middle,0,3", "f.csv:2: Site 'middle' is none of output, input"),
        ("Injection,Layer,Site,Index,Bit\n0,conv1,Output,0,3", "f.csv:2: Site 'Output' is none of output, input"),
        ("Injection,Layer,Index,Bit,Input\n0,conv1,0,3,7", "f.csv:2: Input '7' needs a neuron; give a Site"),
        ("Injection,Layer,Index,Bit,Input\n0,conv1,0,3,all", "f.csv:2: Input 'all' needs a neuron"),
        (
            "Injection,Layer,Site,Index,Bit,Input\n0,conv1,output,0,3,-1",
            "f.csv:2: Input '-1' is neither all nor the number of an input, from 0",
        ),
        ("Injection,Layer,Site,Index,Bit,Input\n0,conv1,output,0,3,1.5", "f.csv:2: Input '1.5' is neither"),
        ("Injection,Layer,Site,Index,Bit,Input\n0,conv1,output,0,3,1.0", None),
        (
            "Injection,Layer,Site,Index,Bit,Parameter\n0,conv1,output,0,3,bias",
            r"f.csv:2: a neuron \(Site output\) has no Parameter, found 'bias'",
        ),
        ("Injection,Layer,site,Index,Bit\n0,conv1,output,0,3", None),
        ("Injection,Layer,Site,Index,Bit,Site\n0,c,output,0,3,", "f.csv:1: column Site stands twice"),
        ("Injection,Layer,Site,Index,TensorIndex,Bit,inputs\n0,c,output,0,3,3,3", None),
    ],
)
def test_wrong_rows(text: str, message: str | None, tmp_path: Path) -> None:
    if message is None:
        assert len(listed(tmp_path, text)) == 1
        return
    with pytest.raises(FaultListError, match=message):
        listed(tmp_path, text)


def mixed() -> list[Injection]:
    return [
        Injection("w", (Fault("conv1", (1, 2, 3), 30, parameter="bias"), Fault("a.b", (), 0))),
        Injection("n", (neuron((1, 2)), neuron((), 31, site=Site.INPUT, input=0), neuron((9,), input=123456))),
        Injection("both", (Fault("fc", (0, 0), 3), setting((1,), "nan"))),
        Injection("m", (neuron((1,), None, kind=Kind.MASK, value="0x80"),)),
    ]


def test_a_written_list_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    write_fault_list(path, mixed())
    header, *rows = path.read_text().splitlines()
    assert header == "Injection,Layer,TensorIndex,Bit,Parameter,Kind,Value,Site,Input"
    assert rows[2] == 'n,conv1,"(1, 2)",3,,flip,,output,all'
    assert list(read_fault_list(path)) == mixed()
    assert has_neurons(read_fault_list(path))
    assert [running for _, running in list_fingerprint(read_fault_list(path))] == [
        h for _, h in list_fingerprint(mixed())
    ]


def test_a_list_of_weights_has_the_columns_it_always_had(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    write_fault_list(path, [Injection("1", (Fault("conv1", (1, 2), 3),))])
    assert path.read_text() == 'Injection,Layer,TensorIndex,Bit\n1,conv1,"(1, 2)",3\n'
    assert not has_neurons(read_fault_list(path))


def test_a_list_of_weights_has_the_hash_it_always_had() -> None:
    """Runs older than neuron faults are identified by this hash, so it stands here as text, not computed by our code."""
    injections = [
        Injection("7", (Fault("conv1", (1, 2), 3), Fault("fc", (0,), None, Kind.SET, "1.5", "bias"))),
        Injection("x", (Fault("l", (), None, Kind.MASK, "0x80"),)),
    ]
    rows = (
        ("7", "7", "conv1", "(1, 2)", 3, "", "flip", ""),
        ("7", "7", "fc", "(0,)", "", "bias", "set", "1.5"),
        ("x", "x", "l", "()", "", "", "mask", "0x80"),
    )
    expected = hashlib.sha256("".join(map(repr, rows)).encode()).hexdigest()
    assert [running for _, running in list_fingerprint(injections)][-1] == expected


@pytest.mark.parametrize(
    "other",
    [neuron((1,), input=3), neuron((1,), site=Site.INPUT), neuron((1,), 4), neuron((2,)), Fault("conv1", (1,), 3)],
)
def test_what_tells_lists_apart(other: Fault) -> None:
    ((_, mine),) = list_fingerprint([Injection("a", (neuron((1,)),))])
    ((_, theirs),) = list_fingerprint([Injection("a", (other,))])
    assert mine != theirs


def test_a_fault_says_where_it_is() -> None:
    assert str(neuron((1, 2), input=7)) == "flip bit 3 of conv1 (output)[1, 2] for input 7"
    assert str(neuron((1, 2), site=Site.INPUT)) == "flip bit 3 of conv1 (input)[1, 2]"
