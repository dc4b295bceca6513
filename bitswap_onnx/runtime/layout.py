"""The choice behind ``layout`` auto: blocked kernels if the incremental engine can cut the model with them, else plain ones.

Blocked (NCHWc) kernels are up to twice as fast. But the runtime chooses them by the surroundings of a node, so a model
that is cut in two may round otherwise than in one piece.
"""

from dataclasses import replace

import numpy as np

from bitswap_onnx.data.synthetic import synthetic_dataset
from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.nodes import node_label
from bitswap_onnx.graph.signature import ModelInput
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.runtime.chain_plan import ChainPlan, decode_plan, encode_plan, may_be_plan
from bitswap_onnx.runtime.incremental import IncrementalEngine
from bitswap_onnx.runtime.session import Numerics, open_session
from bitswap_onnx.runtime.verdicts import kept_verdict

#: Number of layers that are tried where a model is not divided, spread over it.
_LAYERS = 6

#: Share of the wanted stages, or of the tried layers, that must be exact.
_ENOUGH = 0.75


def choose_layout(model: Model, numerics: Numerics, output: str, spec: ModelInput) -> tuple[Numerics, ChainPlan | None]:
    """Return ``numerics`` with the layout to use for a model on this machine, and the chain found with it, if any.

    Both are tried on seeded synthetic inputs, and kept (`bitswap_onnx.runtime.verdicts`). Only the model, the other numerics
    and the processor decide, so the same campaign gets the same layout.
    """
    convolves = any(node.op_type == "Conv" for node in model.proto.graph.node)
    if numerics.provider != "cpu" or not convolves or spec.dtype != np.float32:
        return replace(numerics, layout="plain"), None
    facts = {"model": model.sha256, "output": output, "shape": spec.shape, "numerics": numerics.as_dict()}
    plan = decode_plan(
        kept_verdict(facts, lambda: encode_plan(_blocked_chain(model, numerics, output, spec)), may_be_plan)
    )
    return replace(numerics, layout="plain" if plan is None else "blocked"), plan


def _blocked_chain(model: Model, numerics: Numerics, output: str, spec: ModelInput) -> ChainPlan | None:
    """Return the chain of a model with blocked kernels, None if they lose too much of what plain ones have."""
    blocked = replace(numerics, layout="blocked")
    convolutions = {node_label(node) for node in model.proto.graph.node if "Conv" in node.op_type}
    targets = [target for target in find_targets(model) if target.role == "weight" and len(target.shape) > 2]
    weights = [(target.tensor,) for target in targets if convolutions.intersection(target.users)]
    tried = [weights[i] for i in np.unique(np.linspace(0, len(weights) - 1, _LAYERS).astype(int))] if weights else []
    inputs = synthetic_dataset(spec.shape, spec.dtype, numerics.batch_size, seed=0).batch(0, numerics.batch_size)
    try:
        scores = open_session(model, blocked, output).run(inputs)
        engine = IncrementalEngine(model, blocked, output, inputs, scores, dict.fromkeys(tried, 1), min_batches=0)
        wanted = len(engine.wanted_borders) - 1
        if wanted > 1:
            return engine.chain.plan if engine.chain.count >= _ENOUGH * wanted else None
        exact = sum(engine.lane_kind(path) == "packed" for path in tried)
    except ModelError:  # the campaign itself reports what is wrong with the model
        return None
    return engine.chain.plan if tried and exact >= _ENOUGH * len(tried) else None
