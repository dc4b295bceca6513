"""Targets: their tensors, roles and names. Expectations are written by hand for each model."""

import json
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.targets import find_targets, select_targets
from tests.builders import build, cnn, normal

Row = tuple[str, str, str, str]


def rows(proto: onnx.ModelProto) -> list[Row]:
    return [(t.tensor, t.layer, t.parameter, t.role) for t in find_targets(from_proto(proto))]


def test_conv_batch_norm_linear() -> None:
    assert rows(cnn()) == [
        ("conv.weight", "conv", "weight", "weight"),
        ("conv.bias", "conv", "bias", "bias"),
        ("bn.weight", "bn", "weight", "bn_scale"),
        ("bn.bias", "bn", "bias", "bn_bias"),
        ("bn.running_mean", "bn", "running_mean", "bn_mean"),
        ("bn.running_var", "bn", "running_var", "bn_var"),
        ("fc.weight", "fc", "weight", "weight"),
        ("fc.bias", "fc", "bias", "bias"),
    ]


def test_kernels_behind_transpose_reshape_identity_and_dequantize() -> None:
    proto = build(
        """net (float[N, 4] x) => (float[N, 4] y) {
            t = Transpose <perm = [1, 0]> ("block.0.fc.weight")
            a = MatMul (x, t)
            shape = Constant <value = int64[2] {4, 4}> ()
            r = Reshape (flat, shape)
            i = Identity (r)
            [head] b = MatMul (a, i)
            dq = DequantizeLinear ("q.weight", "q.scale", "q.zero")
            y = MatMul (b, dq)
        }""",
        block__0__fc__weight=normal(4, 4),
        flat=normal(16),
        q__weight=np.arange(16, dtype=np.int8).reshape(4, 4),
        q__scale=np.float32(0.1),
        q__zero=np.int8(0),
    )
    assert rows(proto) == [
        ("block.0.fc.weight", "block.0.fc", "weight", "weight"),
        ("flat", "head", "weight", "weight"),
        ("q.scale", "q", "scale", "scale"),
        ("q.zero", "q", "zero", "zero_point"),
        ("q.weight", "q", "weight", "weight"),
    ]


def test_what_computes_with_activations_is_a_target_and_what_steers_is_none() -> None:
    proto = build(
        """net (float[N, 3, 4] x, int64[N, 3] ids) => (float[N, M, 4] y) {
            e = Gather ("embed.weight", ids)
            a = Add (x, e)
            b = Add (a, pos)
            c = LayerNormalization <axis = -1> (b, "norm.weight", "norm.bias")
            low = Constant <value_float = -1.0> ()
            d = Clip (c, low, val_9)
            f = Mul (d, "/Constant_3_output_0")
            g = Mul (f, "logit_scale")
            lengths = Shape (g)
            first = Gather (lengths, zero)
            h = Unsqueeze (first, axes)
            wide = Concat <axis = 0> (h, shape)
            token = Expand (class_token, wide)
            y = Concat <axis = 1> (token, g)
        }""",
        embed__weight=normal(10, 4),
        pos=normal(1, 3, 4),
        norm__weight=normal(4),
        norm__bias=normal(4),
        val_9=np.float32(6),
        logit_scale=np.float32(2),
        zero=np.int64(0),
        axes=np.array([0], np.int64),
        shape=np.array([1, 4], np.int64),
        class_token=normal(1, 1, 4),
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "/Constant_3_output_0"))
    assert rows(proto) == [
        ("embed.weight", "embed", "weight", "weight"),
        ("pos", "pos", "pos", "parameter"),
        ("norm.weight", "norm", "weight", "parameter"),
        ("norm.bias", "norm", "bias", "bias"),
        ("logit_scale", "logit_scale", "logit_scale", "parameter"),
        ("class_token", "class_token", "class_token", "parameter"),
    ]


def test_keras_names_and_a_batch_norm_taken_apart() -> None:
    proto = build(
        """net (float[N, 4] x) => (float[N, 4] y) {
            a = MatMul (x, "dense/kernel")
            b = Add (a, "dense/bias")
            c = Sub (b, "bn/moving_mean")
            d = Mul (c, "bn/gamma")
            y = Add (d, "bn/beta")
        }""",
        **{
            "dense/kernel": normal(4, 4),
            "dense/bias": normal(4),
            "bn/moving_mean": normal(4),
            "bn/gamma": normal(4),
            "bn/beta": normal(4),
        },
    )
    assert [row[1:] for row in rows(proto)] == [
        ("dense", "kernel", "weight"),
        ("dense", "bias", "bias"),
        ("bn", "moving_mean", "bn_mean"),
        ("bn", "gamma", "bn_scale"),
        ("bn", "beta", "bn_bias"),
    ]


def test_names_fall_back_to_the_node_and_then_to_the_initializer() -> None:
    proto = build(
        """net (float[N, 4] x) => (float[N, 4] y) {
            [first] a = Gemm (x, W0, B0)
            y = Gemm (a, W1)
        }""",
        W0=normal(4, 4),
        B0=normal(4),
        W1=normal(4, 4),
    )
    assert rows(proto) == [
        ("W0", "first", "weight", "weight"),
        ("B0", "first", "bias", "bias"),
        ("W1", "W1", "weight", "weight"),
    ]


def test_a_bias_added_behind_a_kernel() -> None:
    proto = build(
        "net (float[N, 4] x) => (float[N, 4] y) {\n a = MatMul (x, W)\n y = Add (a, B)\n}", W=normal(4, 4), B=normal(4)
    )
    assert [row[3] for row in rows(proto)] == ["weight", "bias"]


def test_metadata_of_a_converter_comes_first_and_names_aliases() -> None:
    proto = build(
        """net (float[N, 4] x) => (float[N, 4] y) {
            a = MatMul (x, val_3)
            b = Mul (a, val_4)
            c = MatMul (b, val_3)
            y = Add (c, val_5)
        }""",
        val_5=normal(4),
        val_3=normal(4, 4),
        val_4=np.float32(2),
    )
    parameters = {
        "val_3": {"layer": "embed", "parameter": "weight", "aliases": ["head.weight"]},
        "val_4": {"layer": "", "parameter": "gain"},
    }
    helper.set_model_props(proto, {"bitswap_onnx": json.dumps({"version": 1, "parameters": parameters})})
    shared, gain = find_targets(from_proto(proto))
    assert shared.names == (("embed", "weight"), ("head", "weight"))
    assert (shared.role, len(shared.users)) == ("weight", 2)
    assert (gain.layer, gain.parameter, gain.role) == ("gain", "gain", "parameter")


def test_metadata_of_a_model_that_was_changed_since_names_what_is_left() -> None:
    """A quantizer keeps the metadata and renames weights: the new tensors are targets by the rules."""
    proto = build(
        "net (float[N, 4] x) => (float[N, 4] y) {\n a = MatMul (x, val_3)\n [q] y = MatMul (a, quantized)\n}",
        val_3=normal(4, 4),
        quantized=normal(4, 4),
    )
    parameters = {
        "val_3": {"layer": "embed", "parameter": "weight"},
        "gone": {"layer": "old", "parameter": "weight"},
    }
    helper.set_model_props(proto, {"bitswap_onnx": json.dumps({"version": 1, "parameters": parameters})})
    assert [row[1] for row in rows(proto)] == ["embed", "q"]


def test_parameters_behind_operators_that_mostly_steer() -> None:
    proto = build(
        """net (float[N, 3, 4] x, bool[N, 3, 1] masked) => (float[N, M, 4] y) {
            tokens = Tile (token, repeats)
            a = Concat <axis = 1> (tokens, x)
            y = Where (masked, mask_token, a)
        }""",
        token=normal(1, 1, 4),
        repeats=np.array([1, 1, 1], np.int64),
        mask_token=normal(1, 1, 4),
    )
    assert [row[0] for row in rows(proto)] == ["token", "mask_token"]


def test_subgraphs_of_nodes_with_one_name_stay_apart() -> None:
    body = "<float[1, 1] W = {%d}> { [m%d] z%d = MatMul (x, W) }"
    proto = build(
        f"""net (float[N, 1] x, bool c) => (float[N, 1] y, float[N, 1] w) {{
            [same] y = If (c) <
                then_branch = a () => (float[N, 1] z1) {body % (1, 1, 1)},
                else_branch = b () => (float[N, 1] z2) {body % (2, 2, 2)}
            >
            [same] w = If (c) <
                then_branch = a () => (float[N, 1] z3) {body % (3, 3, 3)},
                else_branch = b () => (float[N, 1] z4) {body % (4, 4, 4)}
            >
        }}"""
    )
    model = from_proto(proto)
    assert {t.layer: model.tensor(t.tensor).item() for t in find_targets(model)} == {"m1": 1, "m2": 2, "m3": 3, "m4": 4}


def test_subgraphs_have_scopes_and_see_outer_tensors() -> None:
    proto = build(
        """net (float[N, 4] x, bool c) => (float[N, 4] y) {
            [choice] y = If (c) <
                then_branch = a () => (float[N, 4] z) <float[4, 4] W = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}> {
                    [m] z = MatMul (x, W)
                },
                else_branch = b () => (float[N, 4] z2) { [n] z2 = MatMul (x, outer) }
            >
        }""",
        outer=normal(4, 4),
    )
    assert rows(proto) == [
        ("y/then_branch::W", "m", "weight", "weight"),
        ("outer", "n", "weight", "weight"),
    ]


def test_constant_nodes_that_hold_a_kernel() -> None:
    proto = build(
        """net (float[N, 2] x) => (float[N, 2] y) {
            w = Constant <value = float[2, 2] {1.0, 2.0, 3.0, 4.0}> ()
            [fc] y = MatMul (x, w)
        }"""
    )
    assert rows(proto) == [("w", "fc", "weight", "weight")]


def test_functions_of_the_model_are_looked_into() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20, "local" : 1]>
        net (float[N, 2] x) => (float[N, 2] y) <float[2, 2] W = {1.0, 2.0, 3.0, 4.0}> { [call] y = local.Linear (x, W) }
        <domain: "local", opset_import: ["" : 20]> Linear (a, k) => (b) {
            t = Transpose <perm = [1, 0]> (k)
            b = MatMul (a, t)
        }"""
    )
    assert rows(proto) == [("W", "call", "weight", "weight")]


def test_quantized_operators() -> None:
    names = ["xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    values: list[NDArray[Any] | np.generic] = [
        np.float32(1),
        np.uint8(0),
        np.ones((2, 1, 1, 1), np.int8),
        np.float32(1),
        np.int8(0),
        np.float32(1),
    ]
    tensors = dict(zip(names, [*values, np.uint8(0), np.ones(2, np.int32)], strict=True))
    proto = build(
        """net (uint8[N, 1, 2, 2] x) => (uint8[N, 2, 2, 2] y) {
            [q] y = QLinearConv (x, xs, xz, w, ws, wz, ys, yz, b)
        }""",
        **tensors,
    )
    roles = ["scale", "zero_point", "weight", "scale", "zero_point", "scale", "zero_point", "bias"]
    assert [(row[0], row[3]) for row in rows(proto)] == list(zip(names, roles, strict=True))


@pytest.mark.parametrize(
    ("patterns", "layers"),
    [
        (None, ["conv", "bn", "fc"]),
        ("conv", ["conv"]),
        ("fc.weight", ["fc"]),
        ("*n.weight", ["bn"]),
        ("b, running_", ["conv", "bn", "fc"]),
        ("[cb]*", ["conv", "bn"]),
    ],
)
def test_selecting_layers(patterns: str | None, layers: list[str]) -> None:
    chosen = select_targets(from_proto(cnn()), patterns)
    assert list(dict.fromkeys(target.layer for target in chosen)) == layers


def test_selecting_nothing_names_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"no layer or parameter matches 'cnov'; the nearest are conv"):
        select_targets(from_proto(cnn()), "fc,cnov")


def test_recurrent_layers_have_two_weights_with_the_names_of_the_specification() -> None:
    proto = build(
        """net (float[S, N, 3] x) => (float[S, D, N, 2] y) {
            axes = Constant <value = int64[1] {0}> ()
            w = Unsqueeze ("lstm.weight_ih", axes)
            r = Unsqueeze ("lstm.weight_hh", axes)
            [first] a, h, c = LSTM <hidden_size = 2> (x, w, r, "lstm.bias")
            squeezed = Squeeze (a, one)
            [second] y, h2 = GRU <hidden_size = 2> (squeezed, W0, R0)
        }""",
        lstm__weight_ih=normal(8, 3),
        lstm__weight_hh=normal(8, 2),
        lstm__bias=normal(1, 16),
        one=np.array([1], np.int64),
        W0=normal(1, 6, 2),
        R0=normal(1, 6, 2),
    )
    assert rows(proto) == [
        ("lstm.weight_ih", "lstm", "weight_ih", "weight"),
        ("lstm.weight_hh", "lstm", "weight_hh", "weight"),
        ("lstm.bias", "lstm", "bias", "bias"),
        ("W0", "second", "W", "weight"),
        ("R0", "second", "R", "weight"),
    ]
