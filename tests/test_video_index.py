"""Numbers, times and key frames of a video's frames, from its packets alone."""

from fractions import Fraction

import pytest

from cmd_lightning.video_index import START, FrameIndex, Key, Mark

MILLISECOND = Fraction(1, 1000)


def index_of(times, keys=(0,), timed=True, seekable=True):
    """Of packets in order of decoding."""
    return FrameIndex([Mark(time, time in keys, False) for time in times], timed, seekable)


def groups(number, length=20, tick=40):
    """Groups of a key frame and others, two of which are decoded before they are shown."""
    times = []
    for first in range(0, number * length, length):
        times += [first, *(first + at for at in (3, 1, 2)), *range(first + 4, first + length)]
    return [time * tick for time in times], [first * length * tick for first in range(number)]


def test_frames_are_in_order_of_presentation():
    times, keys = groups(3)
    index = index_of(times, keys)
    assert index.frames == 60 and index.ticks == sorted(times) != times


@pytest.mark.parametrize(
    ("wanted", "runs"),
    [
        ([45], [(Key(1600, 40), [45], 45)]),
        ([2, 45], [(Key(0, 0), [2], 3), (Key(1600, 40), [45], 45)]),
        ([15, 21], [(Key(0, 0), [15, 21], 22)]),  # a seek to 20 would cost more than the frames up to it
        ([1, 3], [(Key(0, 0), [1, 3], 2)]),  # frame 1 is decoded last of the two
    ],
)
def test_decoding_begins_at_the_last_key_frame_that_is_worth_it(wanted, runs):
    assert index_of(*groups(3)).plan(wanted) == runs


@pytest.mark.parametrize(
    "index",
    [
        index_of(*groups(3), timed=False),
        index_of([0, 40, None, 120]),
        index_of([0, 40, 40, 120]),  # two frames at one time
    ],
)
def test_frames_without_reliable_times_are_counted_from_the_start(index):
    assert index.ticks == []
    assert index.plan([3]) == [(START, [3], 3)]
    assert index.rate(25.0, MILLISECOND) == (25.0, None)


def test_nothing_is_skipped_where_decoding_must_begin_at_the_start():
    assert index_of(*groups(3), seekable=False).plan([45]) == [(START, [45], 45)]


def test_rates():
    assert index_of([0, 40, 80, 120]).rate(25.0, MILLISECOND) == (25.0, None)
    assert index_of([round(at * 1000 / 30) for at in range(90)]).rate(30.0, MILLISECOND) == (30.0, None)  # rounded
    assert index_of([0, 40, 80, 120]).rate(0.0, MILLISECOND) == (25.0, None)  # not stated
    assert index_of([0, 40, 80, 120]).rate(90.0, MILLISECOND) == (25.0, None)  # wrongly stated
    assert index_of([0]).rate(0.0, MILLISECOND) == (1.0, None)
    rate, times = index_of([100, 200, 500, 1000]).rate(25.0, MILLISECOND)
    assert rate == pytest.approx(3 / 0.9) and times == pytest.approx([0, 0.1, 0.4, 0.9])
