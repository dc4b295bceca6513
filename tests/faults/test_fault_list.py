"""Fault lists: dialects, rules, and the errors of wrong rows."""

import codecs
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitswap_onnx.errors import FaultListError
from bitswap_onnx.faults.fault import Fault, Injection, Kind, Site
from bitswap_onnx.faults.fault_list import list_fingerprint, read_fault_list, write_fault_list

HEADER = "Injection,Layer,TensorIndex,Bit\n"
FULL_HEADER = "Injection,Layer,TensorIndex,Bit,Parameter,Kind,Value\n"


def read(tmp_path: Path, text: str | bytes) -> list[Injection]:
    path = tmp_path / "faults.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_fault_list(path))


def test_plain_list(tmp_path: Path) -> None:
    assert read(tmp_path, HEADER + '0,conv1,"(3, 0, 2, 1)",15\n1,linear,"(2, 26)",4\n') == [
        Injection("0", (Fault("conv1", (3, 0, 2, 1), 15),)),
        Injection("1", (Fault("linear", (2, 26), 4),)),
    ]


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_encodings_and_line_ends(tmp_path: Path, mark: bytes, ending: bytes, last: bool) -> None:
    text = ending.join([b"Injection,Layer,TensorIndex,Bit", 'a,größe,"(1, 2)",3'.encode()]) + (ending if last else b"")
    assert read(tmp_path, mark + text) == [Injection("a", (Fault("größe", (1, 2), 3),))]


def test_a_model_in_place_of_the_list(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\x08\x08\xff\xfe")
    with pytest.raises(FaultListError, match="it is a model: the model comes first, then the list"):
        read_fault_list(path)


INDEX = "(3, 0, 2, 1)"


@pytest.mark.parametrize(
    "text",
    [
        f'Injection,Layer,TensorIndex,Bit,Parameter\n0,conv1,"{INDEX}",30.0,\n',
        f"\ufeffInjection;Layer;TensorIndex;Bit\r\n0;conv1;{INDEX};30\r\n",
        f"Injection\tLayer\tTensorIndex\tBit\n0\tconv1\t{INDEX}\t30\n",
        f'Injection, Layer, TensorIndex, Bit\n0, conv1, "{INDEX}", 30\n',
        f'Injection,Layer,TensorIndex,Bit\n0,conv1,"{INDEX}" , "30"  \n',
        f'INJECTION,layer,tensor_index,bit,KIND\n0,conv1,"{INDEX}",30,flip\n',
        f'injection,layer,index,bit\n0,conv1,"{INDEX}",30\n',
        f'Injection,Layer,TensorIndex,Bit,Parameter,Kind,Value,Site,Input\n0,conv1,"{INDEX}",30,nan,NaN,nan,None,<NA>\n',
        'Injection,Layer,TensorIndex,Bit\n0,conv1,"(np.int64(3), np.int64(0), np.int64(2), np.int64(1))",30\n',
        'Injection,Layer,TensorIndex,Bit\n0,conv1,"[int32(3), numpy.uint8(0), 2, 1]",30\n',
    ],
    ids=["float", "semicolons", "tabs", "blanks", "blanks behind", "cases", "lower", "nan", "numpy", "more of numpy"],
)
def test_lists_as_tables_and_spreadsheets_write_them(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == [Injection("0", (Fault("conv1", (3, 0, 2, 1), 30),))]


@pytest.mark.parametrize(
    "text",
    [
        'Injection\tLayer\tTensorIndex\tNote\tBit\tOldBit\n0\tconv1\t"(7, 0)" \t\t22\t5\n',
        'Injection,Layer,TensorIndex,Note,Bit\n0,conv1,\t"(7, 0)",,22\n',
        'Injection;Layer;TensorIndex;"Note, long";Bit\n0;conv1;"(7, 0)" ;"a ;b" ;22\n',
        'Injection,Layer,TensorIndex,Tensor Index,Bit,bit\n0,conv1,"(7, 0)",here,22,5\n',
        'Injection,Layer,TensorIndex,Bit,Inj ID,feature_map_index\n0,conv1,"(7, 0)",22,x,y\n',
        'Injection,Layer,TensorIndex,Bit\n0,conv1,"(7, 0)",np.int64(22)\n',
    ],
    ids=[
        "blank and an empty cell",
        "tab before",
        "comma in the header",
        "right spelling first",
        "other marks",
        "numpy",
    ],
)
def test_cells_stay_in_their_columns(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == [Injection("0", (Fault("conv1", (7, 0), 22),))]


def test_a_table_with_floats_and_empty_cells(tmp_path: Path) -> None:
    """A column with an empty cell is one of floats; NaN as a value to set is no empty cell."""
    rows = 'a,conv1,"(0, 1)",30.0,nan,\nb,conv1,"(0, 2)",nan,set,0.5\nc,conv1,"(0, 3)",,set,nan\n'
    assert read(tmp_path, "Injection,Layer,TensorIndex,Bit,Kind,Value\n" + rows) == [
        Injection("a", (Fault("conv1", (0, 1), 30),)),
        Injection("b", (Fault("conv1", (0, 2), None, Kind.SET, "0.5"),)),
        Injection("c", (Fault("conv1", (0, 3), None, Kind.SET, "nan"),)),
    ]


def test_results_of_other_tools_are_lists(tmp_path: Path) -> None:
    benchmark = (
        'Injection,Layer,TensorIndex,Bit,n_injections,masked,non_critical,critical\n7,conv1,"(0, 1)",2,10,1,2,7\n'
    )
    injector = (
        "inj_id,target_layer,layer_weigths,bit_pos,n_injections,top_1_correct\n"
        'GOLDEN,,,,10000,9174\n7,conv1,"(0, 1)",2,10000,1\n'
    )
    expected = [Injection("7", (Fault("conv1", (0, 1), 2),))]
    assert read(tmp_path, benchmark) == expected
    assert read(tmp_path, injector) == expected


def test_kinds_values_and_parameters(tmp_path: Path) -> None:
    rows = (
        'a,bn1,"(3,)",,bn_var,set,0x7f800000\n'
        'a,fc,"[1, 2]",5,bias,stuck_at_1,\n'
        'b,fc,"(1, 2)",,,mask,0xff\n'
        'c,s,"()",0,scale,stuck_at_0,\n'
    )
    assert read(tmp_path, FULL_HEADER + rows) == [
        Injection(
            "a",
            (
                Fault("bn1", (3,), None, Kind.SET, "0x7f800000", "bn_var"),
                Fault("fc", (1, 2), 5, Kind.STUCK_AT_1, None, "bias"),
            ),
        ),
        Injection("b", (Fault("fc", (1, 2), None, Kind.MASK, "0xff"),)),
        Injection("c", (Fault("s", (), 0, Kind.STUCK_AT_0, None, "scale"),)),
    ]


ROW = '0,conv1,"(0, 1)",2'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"faults.csv:1: expected a header with Injection,Layer,TensorIndex,Bit, found an empty file"),
        (HEADER, r"faults.csv: the fault list has a header but no rows"),
        (
            "a;b;c\n1;2;3\n",
            r"faults.csv:1: expected a header .* missing Injection, Layer, TensorIndex, Bit, found 'a,b,c'",
        ),
        ("Injection,Layer,Bit\n1,2,3\n", r"faults.csv:1: .* missing TensorIndex"),
        ("Injection,Layer,TensorIndex,Bit,Bit\n0,a,(0),1,1\n", r"faults.csv:1: column Bit stands twice"),
        (HEADER + ROW + "\n1,conv1\n", r"faults.csv:3: expected at least 4 cells, found 2"),
        (HEADER + "0,conv1,zero,2\n", r"faults.csv:2: TensorIndex 'zero'"),
        (HEADER + '0,conv1,"(0, 1",2\n', r"faults.csv:2: TensorIndex '\(0, 1'"),
        (HEADER + '0,conv1,",",2\n', r"faults.csv:2: TensorIndex ','"),
        (HEADER + f'0,conv1,"({"9" * 5000})",2\n', r"faults.csv:2: TensorIndex '\(9999"),
        (HEADER + '0,conv1,"(0, -1)",2\n', r"faults.csv:2: TensorIndex '\(0, -1\)'"),
        (HEADER + '0,conv1,"(0, 1)",2.5\n', r"faults.csv:2: Bit '2.5' is no bit number"),
        (HEADER + '0,conv1,"(0, 1)",nan\n', r"faults.csv:2: Bit '' is no bit number"),
        (
            HEADER + '0,conv1,"(0, 1)","30,3"\n',
            r"faults.csv:2: Bit '30,3' .* write a row for each bit, one below the other",
        ),
        (HEADER + '0,conv1,"(0, 1)",[30 3]\n', r"faults.csv:2: Bit '\[30 3\]' .* write a row for each bit"),
        (HEADER + "0,conv1,(0, 1),2\n", r"faults.csv:2: TensorIndex '\(0' is no index .* put it in quotes"),
        ("Injection,Layer,TensorIndex,bit,BIT\n0,a,(0),1,1\n", r"faults.csv:1: column Bit stands twice"),
        (
            HEADER + f"0,conv1,(0),{'1,' * 99}1\n".replace("(0),", '(0),"').replace("1\n", '1"\n'),
            r"Bit '[1,]{40}' is no bit",
        ),
        (HEADER + '0,conv1,"(0, 1)",\n', r"faults.csv:2: Bit '' is no bit number"),
        (HEADER + '0,,"(0, 1)",2\n', r"faults.csv:2: expected a layer name"),
        (HEADER + '../x,conv1,"(0, 1)",2\n', r"faults.csv:2: expected an injection id .* found '../x'"),
        (HEADER + f"{ROW}\n1,conv1,(0),1\n{ROW}\n", r"faults.csv:4: injection 0 stood at line 2 already"),
        (FULL_HEADER + ROW + ",,bitflip,\n", r"faults.csv:2: Kind 'bitflip' is none of flip, stuck_at_0"),
        (FULL_HEADER + ROW + ",,set,1\n", r"faults.csv:2: a set fault takes a Value and no Bit, found Bit '2'"),
        (FULL_HEADER + ROW + ",,flip,1\n", r"faults.csv:2: a flip fault takes a Bit and no Value"),
        (
            FULL_HEADER + "0,conv1,(0),,,mask,12\n",
            r"faults.csv:2: a mask fault takes a Value like 0x80000001, found '12'",
        ),
        (FULL_HEADER + "0,conv1,(0),,,set,much\n", r"faults.csv:2: a set fault takes a number"),
        (
            "Injection,Layer,TensorIndex,Bit,Site\n" + ROW + ",outside\n",
            r"faults.csv:2: Site 'outside' is none of output, ",
        ),
        ("Injection,Layer,Index,Bit,Site,Input\n" + ROW + ",,3\n", r"faults.csv:2: Input '3' needs a neuron"),
        ("Injection,Layer,Index,Bit,Site,Input\n" + ROW + ",input,-1\n", r"faults.csv:2: Input '-1' is neither all"),
        (
            "Injection,Layer,Index,Bit,Site,Parameter\n" + ROW + ",input,bias\n",
            r"faults.csv:2: a neuron .* has no Param",
        ),
        (
            'Injection,LayerName,FeatureMapIndex,Value\n0,a,"[(1, 2), (3, 4)]",[1.0]\n',
            r"faults.csv:2: .* found 2 and 1",
        ),
        (HEADER.encode() + b'0,\xff\xfe,"(0, 1)",2\n', r"faults.csv: expected UTF-8 text"),
        ("\n" + HEADER + ROW, r"faults.csv:1: expected a header .* found an empty line"),
        # quotes: of a cell that is not ours, at the end of the file, in the header, around two lines, before more text
        (
            HEADER.replace("Bit", "Bit,Note") + ROW + ',"oops\n1,bn1,(7),22,x\n2,bn1,(2),18,y"\n',
            r"faults.csv:2: a quote is not closed on this line, and no cell may span lines",
        ),
        (HEADER + ROW + '\n1,conv1,(0),"2', r"faults.csv:3: a quote is not closed"),
        ('"' + HEADER + ROW, r"faults.csv:1: a quote is not closed"),
        (HEADER + '0,"conv\r1","(0, 1)",2\n', r"faults.csv:2: a quote is not closed"),
        (HEADER + '0,"conv"1,"(0, 1)",2\n', r"faults.csv:2: not a CSV row: ',' expected after '\"'"),
        (HEADER + f"0,{'x' * 200_000},(0),2\n", r"faults.csv:2: not a CSV row: field larger"),
        # control characters, whatever the column, and UTF-16 without its mark
        (
            HEADER.replace("Bit", "Bit,Parameter") + ROW + ",w\x1b]0;title\x07\x1b[31mX\n",
            r"faults.csv:2: expected text without control characters, found U\+001B at character 21; save",
        ),
        (HEADER + "0,conv\x001,(0),2\n", r"faults.csv:2: .* found U\+0000 at character 7"),
        (HEADER + ROW + "\n1,conv\x85,(0),2\n", r"faults.csv:3: .* found U\+0085"),
        (HEADER + "0,conv\u2028,(0),2\n", r"faults.csv:2: .* found U\+2028"),
        (HEADER.encode("utf-16-le"), r"faults.csv:1: .* found U\+0000 at character 2"),
        # digits of other scripts, and underscores, which Python reads as numbers
        (FULL_HEADER + "0,conv1,(0),,,set,\u0663\n", "faults.csv:2: a set fault takes a number or .* found '\u0663'"),
        (FULL_HEADER + "0,conv1,(0),,,set,1_0\n", r"faults.csv:2: a set fault takes a number or .* found '1_0'"),
        (FULL_HEADER + "0,conv1,(0),,,mask,0x\uff11\n", r"faults.csv:2: a mask fault takes a Value"),
        (HEADER + "0,conv1,(\u0661),2\n", r"faults.csv:2: TensorIndex"),
        (HEADER + "0,conv1,(0),\u0662\n", r"faults.csv:2: Bit '\u0662' is no bit number"),
    ],
)
def test_wrong_lists(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(FaultListError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_quotes_that_are_text(tmp_path: Path) -> None:
    """A quote within a cell, doubled in a quoted one or plain in another, swallows nothing."""
    text = 'Injection,Layer,TensorIndex,Bit,Note\n0,"a ""b""",(1),2,5" pipe\n1,c"d,(1),2,""\n""\n\n'
    assert [injection.faults[0].layer for injection in read(tmp_path, text)] == ['a "b"', 'c"d']


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FaultListError, match=r"nothing.csv: cannot read the fault list: No such file"):
        read_fault_list(tmp_path / "nothing.csv")


def test_writing_reads_back(tmp_path: Path) -> None:
    injections = [
        Injection("a", (Fault("bn1", (3,), None, Kind.SET, "-0.5", "bn_var"), Fault("fc", (1, 2), 5))),
        Injection("b", (Fault("pos", (), 31, Kind.STUCK_AT_1),)),
    ]
    digest = write_fault_list(tmp_path / "out.csv", injections)
    assert list(read_fault_list(tmp_path / "out.csv")) == injections
    assert [running for _, running in list_fingerprint(injections)][-1] == digest


def test_kind_and_site_may_be_texts() -> None:
    fault = Fault("conv", (0,), 3, kind="stuck_at_1", site="output")  # type: ignore[arg-type]
    assert (fault.kind, fault.site) == (Kind.STUCK_AT_1, Site.OUTPUT)
    assert (type(fault.kind), type(fault.site)) == (Kind, Site)
    assert str(fault) == "stuck_at_1 bit 3 of conv (output)[0]"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "burn"}, "^`kind`: expected one of flip, stuck_at_0, stuck_at_1, mask, set, found 'burn'$"),
        ({"kind": None}, "^`kind`: expected one of flip, .*, found None$"),
        ({"site": "middle", "where": "f.csv:2"}, "^f.csv:2: `site`: expected one of output, input, found 'middle'$"),
    ],
)
def test_other_kinds_and_sites_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(FaultListError, match=message):
        Fault("conv", (0,), 3, **wrong)


def test_numbers_of_numpy_become_pythons() -> None:
    fault = Fault("fc", (np.int64(1), np.int32(2)), np.int64(3))  # type: ignore[arg-type]
    assert repr(fault) == repr(Fault("fc", (1, 2), 3))


@pytest.mark.parametrize("identifier", ["", "a b", "../up", "a/b", "ä"])
def test_ids_that_no_file_name_could_hold(identifier: str) -> None:
    with pytest.raises(FaultListError, match="expected an injection id of 1 to 200 letters, digits"):
        Injection(identifier, (Fault("fc", (0,), 1),))


def test_an_injection_has_faults() -> None:
    with pytest.raises(FaultListError, match="injection a has no faults"):
        Injection("a", ())


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    def last(text: str) -> str:
        return [digest for _, digest in list_fingerprint(read(tmp_path, text))][-1]

    same = last(HEADER + ROW + "\n")
    assert same == last('Layer,Bit,Injection,TensorIndex,x\r\nconv1,2,0,"[0,1]",y\r\n')
    assert same != last(HEADER + ROW.replace("2", "3") + "\n")


@pytest.mark.slow
def test_a_long_list_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """Reading keeps only the ids in memory, far less than the rows would need."""
    path = tmp_path / "long.csv"
    with path.open("w") as file:
        file.write(HEADER)
        file.writelines(f'{i},layer1.0.conv1,"({i % 16}, 2, 1, 0)",{i % 32}\n' for i in range(50_000))
    tracemalloc.start()
    count = sum(1 for _ in read_fault_list(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 50_000
    assert peak < 10_000_000
