"""What a store has of a campaign that draws its faults: the rounds, and what was known after each."""

from typing import Any

import numpy as np

from bitswap_onnx.campaign.adaptive_list import GROWTH_NAME
from bitswap_onnx.campaign.store import Store
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.sampling.rounds import Round, choose_strata
from bitswap_onnx.sampling.strata import Part
from bitswap_onnx.stats.stratified import Strata
from bitswap_onnx.until.planners import Look

#: The setting of a store with all of it.
RECORD = "until"


def rounds_of(record: dict[str, Any]) -> list[Round]:
    """Return the rounds so far."""
    return [Round(one["draws"], one["probabilities"] and tuple(one["probabilities"])) for one in record["rounds"]]


def looks_of(record: dict[str, Any]) -> list[Look]:
    """Return what was known after each round."""
    return [Look(**one) for one in record["looks"]]


def drawn_strata(store: Store) -> tuple[Strata | None, tuple[str, ...]]:
    """Return the strata of a store's injections, and what a reader has to know; None and nothing if it drew none itself."""
    record = store.setting(RECORD)
    if record is None:
        return None, ()
    pieces = choose_strata(rounds_of(record), record["populations"], record["seed"], again=record["again"])
    order = np.concatenate([piece.strata for own in pieces for piece in own])
    sizes = np.bincount(order, minlength=len(record["strata"])).tolist()
    bits = sum(record["populations"]) if record["kinds"] == [Kind.FLIP] else None
    parts = tuple(Part(number, layer, name, tuple(own), each) for number, layer, name, own, each in record["parts"])
    strata = Strata(
        tuple(record["strata"]), tuple(sizes), tuple(record["populations"]), bits, tuple(order.tolist()), parts
    )
    last = looks_of(record)[-1]
    low, mean, high = (f"{100 * share:.4g}" for share in (last.low, last.mean, last.high))
    looked = "which allows for" if record["scheme"] == "stratified" else "which does not allow for"
    note = (
        f"faults were drawn until {last.goal}: {mean} % [{low}, {high}] after {last.injections:,} of them, {looked} having "
        f"looked after each round ({store.run / GROWTH_NAME}); the intervals here are those of a plan made beforehand"
    )
    return strata, (note,)
