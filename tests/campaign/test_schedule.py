"""Chunks and the schedule: everything is handed out once, whoever asks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bitswap_onnx.campaign.schedule import FIRST_UNIT, LARGEST_UNIT, Lot, Queue, Schedule, make_lots
from bitswap_onnx.data.chunks import BATCHES_PER_CHUNK, MOST_SHARES, Chunk, chunk_length, chunks
from bitswap_onnx.runtime.messages import PathWork, Work


def lots(*sizes: int, parts: int = 2) -> list[Lot]:
    """Lots of paths with so many injections each, over ``parts`` chunks of 8 inputs."""
    starts = np.cumsum([0, *sizes])
    queue = {path: np.arange(starts[path], starts[path + 1]) for path in range(len(sizes))}
    return make_lots(chunks(8 * parts, 8), {None: queue}, lambda chunk: np.array([], np.int64), lambda chunk: {})


@given(st.integers(1, 20_000), st.integers(1, 256), st.floats(0, 10), st.integers(0, 20))
def test_chunks_are_whole_batches_of_bounded_length(inputs: int, batch: int, seconds: float, workers: int) -> None:
    length = chunk_length(inputs, batch, seconds, workers)
    assert length % batch == 0
    assert batch <= length <= batch * BATCHES_PER_CHUNK
    assert length == batch or length * seconds <= 1.001
    parts = chunks(inputs, length)
    assert [part.first for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert sum(map(len, parts)) == inputs
    assert len(parts) >= min(workers, MOST_SHARES, -(-inputs // batch)) - 1


@given(st.lists(st.integers(0, 90), min_size=1, max_size=6), st.integers(1, 4), st.lists(st.integers(0, 3)), st.data())
def test_all_work_is_handed_out_once(sizes: list[int], parts: int, order: list[int], data: st.DataObject) -> None:
    schedule = Schedule(lots(*sizes, parts=parts))
    taken: list[Work] = []
    idle = 0
    while idle < 4:
        worker = order[len(taken) % len(order)] if order else len(taken) % 4
        work = schedule.take(worker)
        if work is None:
            idle += 1
            order = []
            continue
        taken.append(work)
        schedule.learn(work, data.draw(st.floats(0, 100)))
    handed = sorted((work.chunk.first, at) for work in taken for part in work.parts for at in part.positions)
    assert handed == [(8 * part, position) for part in range(parts) for position in range(sum(sizes))]
    controls = sorted((work.chunk.first, part.path) for work in taken for part in work.parts if part.control)
    paths = [path for path, size in enumerate(sizes) if size]  # one that has nothing to run needs no control
    assert controls == [(8 * part, path) for part in range(parts) for path in paths]


def handed_out(work: Work | None) -> list[tuple[int, int]]:
    """Return each path of a unit and its number of injections."""
    assert work is not None
    return [(part.path, len(part.positions)) for part in work.parts]


def test_the_null_control_comes_first() -> None:
    schedule = Schedule(lots(100, parts=1))
    works = [schedule.take(0) for _ in range(4)]
    assert [work.parts[0].control for work in works if work] == [True, False, False, False]


def test_a_unit_takes_several_paths_of_its_chunk() -> None:
    schedule = Schedule(lots(10, 10, 10, 40))
    assert handed_out(schedule.take(0)) == [(0, 10), (1, 10), (2, 10), (3, 2)]
    assert handed_out(schedule.take(0)) == [(3, 32)]
    assert handed_out(schedule.take(0)) == [(3, 6)]
    work = schedule.take(0)
    assert work is not None
    assert work.chunk == Chunk(8, 16)


def test_who_has_nothing_left_helps() -> None:
    schedule = Schedule(lots(1, 200, parts=1), workers=2)
    first, helped = schedule.take(0), schedule.take(1)
    assert handed_out(first) == [(0, 1), (1, 31)]
    assert handed_out(helped) == [(1, 32)]
    assert first is not None
    assert helped is not None
    assert not set(first.parts[1].positions) & set(helped.parts[0].positions)


def test_short_lists_end_in_small_units() -> None:
    schedule = Schedule(lots(40, parts=1), workers=2)
    sizes: list[int] = []
    while (work := schedule.take(len(sizes) % 2)) is not None:
        sizes.append(len(work.parts[0].positions))
    assert sizes == [10, 8, 8, 8, 6]


def test_units_grow_and_shrink_with_the_time_they_take() -> None:
    schedule = Schedule(lots(5000, parts=1), unit_seconds=1.0)
    sizes = []
    for seconds_per_injection in (0.001, 0.1, 2.0, 0.0):
        work = schedule.take(0)
        assert work is not None
        sizes.append(len(work.parts[0].positions))
        schedule.learn(work, seconds_per_injection * sizes[-1])
    last = schedule.take(0)
    assert last is not None
    assert [*sizes, len(last.parts[0].positions)] == [FIRST_UNIT, 1000, 10, 1, LARGEST_UNIT]


def test_the_first_unit_of_a_slow_model_is_short() -> None:
    """Before anything has run, an injection is taken to cost a clean run of the model over the chunk, 8 inputs here."""
    first = [Schedule(lots(5000, parts=1), clean_seconds=seconds).take(0) for seconds in (0.001, 0.05, 0.2, 9.0)]
    assert [handed_out(work) for work in first] == [[(0, FIRST_UNIT)], [(0, 7)], [(0, 1)], [(0, 1)]]


def test_units_of_slow_injections_fill_some_batches() -> None:
    """Four of 16 rows are filled by 8 injections over 8 inputs, unless these take four times as long as a unit should."""
    for each, expected in ((0.2, 15), (0.5, 8), (1.4, 8), (2.0, 6), (20.0, 1)):
        schedule = Schedule(lots(5000, parts=1), batch_size=16, clean_seconds=each / 8)
        assert handed_out(schedule.take(0)) == [(0, expected)]


def test_what_is_done_is_not_handed_out_again() -> None:
    part = chunks(8, 8)
    queue: Queue = {None: {0: np.arange(5), 1: np.arange(5, 7)}}
    left = make_lots(part, queue, lambda chunk: np.array([1, 3, 5, 6]), lambda chunk: {1: "packed"})
    assert [(lot.positions.tolist(), lot.control, lot.is_handed_out) for lot in left] == [
        ([0, 2, 4], True, False),
        ([], False, True),
    ]


def test_an_injection_is_run_over_its_block_alone() -> None:
    """And so is the null control of its path: (chunk, path, positions, control, the lane that one held on)."""
    queue: Queue = {0: {0: np.array([4]), 2: np.array([0])}, 16: {0: np.array([1, 3])}}
    left = make_lots(chunks(20, 8), queue, lambda chunk: np.array([0, 3]), lambda chunk: {chunk.first: "stages"})
    assert [(lot.chunk.first, lot.path, lot.positions.tolist(), lot.control, lot.controlled_lane) for lot in left] == [
        (0, 0, [4], True, "stages"),
        (0, 2, [], False, None),
        (16, 0, [1], True, None),
    ]
    (_, work) = (Schedule(left).take(worker) for worker in (1, 0))
    assert work == Work(Chunk(16, 20), (PathWork(0, (1,), control=True),))
