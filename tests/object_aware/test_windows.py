"""Drawn windows obey every rule; where nothing can be drawn, brute force finds nothing either."""

import numpy as np
import pytest
from pycocotools import mask as coco

from object_aware.rules import WindowRules, measure_window, violations
from object_aware.windows import REASONS, canonical_window, decide, draw_in_scene, draw_window

RULES = [
    WindowRules(),
    WindowRules(min_inside=1.0, max_offset=0.1, min_fill=0.3, max_others=0.1, max_upsample=2),
    WindowRules(min_inside=0.5, max_offset=0.4, min_fill=0.05, max_others=0.6, max_upsample=8, aspect=(0.5, 2)),
    WindowRules(max_offset=0.0, max_others=0.0, aspect=(1, 1)),
]


def random_scene(rng):
    """(width, height), (K, 4) float32 boxes inside; sizes and positions of every kind."""
    width, height = (int(side) for side in rng.integers(40, 600, 2))
    count = int(rng.integers(1, 9))
    size = np.exp(rng.uniform(np.log(0.05), 0, (count, 2))) * [width, height]
    start = rng.random((count, 2)) * ([width, height] - size)
    if rng.random() < 0.3:
        start[0] = 0  # at the border
    boxes = np.concatenate([start, start + size], axis=1).astype(np.float32)
    return (width, height), np.minimum(boxes, np.array([width, height] * 2, dtype=np.float32))


@pytest.mark.parametrize('rules', RULES)
def test_draw_window__always_obeys_the_rules(rules):
    rng = np.random.default_rng(0)
    drawn = 0
    for k in range(700):
        scene_size, boxes = random_scene(rng)
        out_size = (96, 96) if k % 2 else (48, 96)
        for _ in range(3):
            window = draw_window(boxes[0], boxes[1:], scene_size, out_size, rules, rng)
            if window is None:
                break
            drawn += 1
            assert window.dtype == np.float32
            assert violations(window, boxes[0], boxes[1:], scene_size, out_size, rules) == []
        window, reason = canonical_window(boxes[0], boxes[1:], scene_size, out_size, rules)
        assert (window is None) == (reason != 'accepted')
        assert reason in REASONS
        if window is not None:
            assert violations(window, boxes[0], boxes[1:], scene_size, out_size, rules) == []
    assert drawn > 200


def brute_force_finds_one(target, others, scene_size, out_size, rules, rng, tries=20000):
    """Windows drawn blindly near the target: does any obey?"""
    area = np.prod(target[2:] - target[:2])
    ratio = out_size[1] / out_size[0] * np.exp(rng.uniform(*np.log(rules.aspect), tries))
    window_area = area * np.exp(rng.uniform(np.log(rules.min_inside), np.log(1 / rules.min_fill), tries))
    side = np.stack([np.sqrt(window_area * ratio), np.sqrt(window_area / ratio)], axis=1)
    centre = (target[:2] + target[2:]) / 2 + rng.uniform(-1, 1, (tries, 2)) * rules.max_offset * side
    windows = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
    fits = (windows[:, :2] >= 0).all(axis=1) & (windows[:, 2:] <= scene_size).all(axis=1)
    fits &= (side * rules.max_upsample >= [out_size[1], out_size[0]]).all(axis=1)
    low, high = np.maximum(windows[:, :2], target[:2]), np.minimum(windows[:, 2:], target[2:])
    seen = np.prod(np.maximum(high - low, 0), axis=1)
    fits &= (seen >= rules.min_inside * area) & (seen >= rules.min_fill * window_area)
    return any(not violations(window, target, others, scene_size, out_size, rules) for window in windows[fits][:300])


def test_canonical_window__of_a_lone_object_exists_where_brute_force_finds_one_and_only_there():
    rng = np.random.default_rng(1)
    rules = WindowRules()
    seen = {True: 0, False: 0}
    for _ in range(250):
        scene_size, boxes = random_scene(rng)
        target = boxes[0].astype(float)
        window, reason = canonical_window(target, [], scene_size, (96, 96), rules)
        found = brute_force_finds_one(target, [], scene_size, (96, 96), rules, rng)
        if window is None:
            assert not found and reason in ('too small', 'too long', 'at the border', 'no window')
        else:  # whatever the closed form calls feasible can be drawn
            drawn = draw_window(target, [], scene_size, (96, 96), rules, rng, max_tries=1)
            assert violations(drawn, target, [], scene_size, (96, 96), rules) == []
        seen[window is None] += 1
    assert min(seen.values()) > 40


def test_canonical_window__finds_what_brute_force_finds_among_others():
    rng = np.random.default_rng(2)
    rules = WindowRules()
    found_both = missed = 0
    for _ in range(200):
        scene_size, boxes = random_scene(rng)
        target = boxes[0].astype(float)
        window, reason = canonical_window(target, boxes[1:], scene_size, (96, 96), rules)
        found = brute_force_finds_one(target, boxes[1:], scene_size, (96, 96), rules, rng)
        if reason in ('too small', 'too long', 'at the border', 'no window'):
            assert not found
        found_both += found and window is not None
        missed += found and window is None
    assert found_both > 40
    assert missed <= 0.03 * found_both  # the grid is coarse; a rare miss is what that costs


@pytest.mark.parametrize(
    ('target', 'others', 'reason'),
    [
        ([100, 100, 140, 140], [], 'accepted'),
        ([100, 100, 106, 106], [], 'too small'),
        ([20, 100, 270, 108], [], 'too long'),
        ([100, 100, 140, 140], [[90, 90, 150, 150]], 'crowded'),
        ([100, 100, 140, 140], [[60, 60, 100, 180], [140, 60, 180, 180]], 'accepted'),
        ([0, 0, 7, 7], [], 'too small'),
        ([0, 100, 11, 111], [], 'at the border'),
    ],
)
def test_canonical_window__reasons(target, others, reason):
    window, answer = canonical_window(np.array(target), np.array(others), (300, 300), (96, 96), WindowRules())
    assert answer == reason
    assert (window is None) == (reason != 'accepted')


def test_canonical_window__lone_object_is_centred_undistorted_and_half_filled():
    window, _ = canonical_window(np.array([100, 100, 140, 140]), np.zeros((0, 4)), (300, 300), (96, 96), WindowRules())
    measure = measure_window(window, [100, 100, 140, 140], [])
    assert measure.inside == 1 and measure.offset < 1e-6
    assert 0.3 < measure.fill < 0.7
    assert (window[2] - window[0]) == pytest.approx(window[3] - window[1], rel=1e-5)


def test_draw_window__fills_the_whole_allowed_range():
    rng = np.random.default_rng(3)
    rules = WindowRules()
    target = np.array([140, 140, 180, 180])
    measures = np.array(
        [measure_window(draw_window(target, [], (320, 320), (96, 96), rules, rng), target, []) for _ in range(3000)]
    )
    inside, offset, fill, _ = measures.T
    assert inside.min() < 0.91 and np.mean(inside == 1) > 0.3
    assert offset.max() > 0.245 and offset.min() < 0.02
    assert fill.min() < 0.155 and fill.max() > 0.93
    # Log-uniform in target area / window area: half of the windows below the geometric middle of 0.15 .. 1.
    assert np.mean(fill < np.sqrt(0.15)) == pytest.approx(0.5, abs=0.05)


def test_draw_window__same_generator_state_same_window():
    target, others = np.array([40, 40, 90, 80]), np.array([[100, 10, 140, 90]])
    draws = [
        draw_window(target, others, (200, 150), (64, 64), WindowRules(), np.random.default_rng(5)) for _ in range(2)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    other = draw_window(target, others, (200, 150), (64, 64), WindowRules(), np.random.default_rng(6))
    assert not np.array_equal(draws[0], other)


def random_pixels(rng, height, width, box):
    """Pixels of an object: with holes, in several parts, thin, or leaving its box."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    u, v = (columns - centre[0]) / half[0], (rows - centre[1]) / half[1]
    kinds = (
        u * u + v * v < 1,
        (u * u + v * v < 1) & (u * u + v * v > 0.4),
        (abs(u) < 1) & (abs(v) < 1) & ((abs(u) > 0.4) | (abs(v) < 0.5)),
        (abs(u) + abs(v) < 1.4),
        (abs(u) < 1) & (abs(v) < 1) & (rng.random((height, width)) < 0.7),
        ((u - 0.5) ** 2 + v * v < 0.2) | ((u + 0.5) ** 2 + (v - 0.3) ** 2 < 0.15),
    )
    return kinds[rng.integers(len(kinds))]


def random_masks(rng, scene_size, boxes):
    """(masks or None, compressed RLE) of the objects of a scene."""
    masks = [random_pixels(rng, *scene_size[::-1], box.astype(float)) if rng.random() < 0.75 else None for box in boxes]
    counts = [
        b'' if mask is None or not mask.any() else coco.encode(np.asfortranarray(mask, dtype=np.uint8))['counts']
        for mask in masks
    ]
    return masks, counts


@pytest.mark.parametrize('rules', [*RULES, WindowRules(measure='box')])
def test_windows__by_mask_obey_the_definition(rules):
    rng = np.random.default_rng(4)
    accepted = drawn = by_mask = 0
    for k in range(150):
        scene_size, boxes = random_scene(rng)
        scene_size = (min(scene_size[0], 260), min(scene_size[1], 260))
        boxes = np.minimum(boxes, np.array([*scene_size, *scene_size], dtype=np.float32))
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2] > 1).all(axis=1)]
        if not len(boxes):
            continue
        masks, counts = random_masks(rng, scene_size, boxes)
        target, others = boxes[0], boxes[1:]
        out_size = (96, 96) if k % 2 else (48, 96)
        window, reason = canonical_window(target, others, scene_size, out_size, rules, masks=counts)
        assert (window is None) == (reason != 'accepted')
        if window is not None:
            accepted += 1
            by_mask += masks[0] is not None
            assert violations(window, target, others, scene_size, out_size, rules, masks) == []
        for _ in range(3):
            window = draw_window(target, others, scene_size, out_size, rules, rng, masks=counts)
            if window is not None:
                drawn += 1
                assert violations(window, target, others, scene_size, out_size, rules, masks) == []
    assert accepted > 10 and drawn > 30 and by_mask > 5


def test_decide__many_scenes_are_as_one_by_one_and_every_time_the_same():
    rng = np.random.default_rng(5)
    rules = WindowRules()
    scenes = [random_scene(rng) for _ in range(40)]
    masks = [random_masks(rng, size, boxes)[1] for size, boxes in scenes]
    boxes = np.concatenate([boxes for _, boxes in scenes])
    counts = [mask for scene in masks for mask in scene]
    crowd = rng.random(len(boxes)) < 0.1
    offsets = np.cumsum([0, *(len(boxes) for _, boxes in scenes)])
    mask_offsets = np.cumsum([0, *(len(mask) for mask in counts)])
    data = np.frombuffer(b''.join(counts), dtype=np.uint8)
    sizes = [size for size, _ in scenes]
    answers = [decide(boxes, crowd, offsets, sizes, mask_offsets, data, (96, 96), rules) for _ in range(2)]
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    np.testing.assert_array_equal(answers[0][1], answers[1][1])
    outcome, windows = answers[0]
    assert (outcome == 255).sum() == crowd.sum() > 0
    assert np.isnan(windows[outcome != 0]).all() and np.isfinite(windows[outcome == 0]).all()
    for scene, (size, here) in enumerate(scenes):
        start = offsets[scene]
        for k in range(len(here)):
            if crowd[start + k]:
                continue
            order = [k, *(n for n in range(len(here)) if n != k)]
            window, reason = canonical_window(
                here[k], here[order[1:]], size, (96, 96), rules, masks=[masks[scene][n] for n in order]
            )
            assert REASONS[outcome[start + k]] == reason
            if window is not None:
                np.testing.assert_array_equal(window, windows[start + k])


def test_decide__a_mask_that_does_not_fit_its_scene():
    counts = coco.encode(np.ones((50, 50), dtype=np.uint8, order='F'))['counts']
    for data in (counts, counts[:-1], b'~~~~', b'P' * 30):
        with pytest.raises(ValueError, match='does not fit its scene'):
            canonical_window([10, 10, 60, 60], [], (80, 80), (64, 64), WindowRules(), masks=[data])
    with pytest.raises(ValueError, match='2 masks were given for 1 objects'):
        canonical_window([10, 10, 60, 60], [], (80, 80), (64, 64), WindowRules(), masks=[b'', b''])
    with pytest.raises(ValueError, match='do not fit them'):
        decide(np.ones((1, 4)), [False], [0, 1], [(80, 80)], np.array([0, 9]), np.zeros(3), (64, 64), WindowRules())
    offsets, data = np.array([0, len(counts)]), np.frombuffer(counts, dtype=np.uint8)
    box, rng = np.array([[10, 10, 60, 60]]), np.random.default_rng(0)
    for wrong in (offsets + 1, offsets - 1):  # would be read from beyond the bytes
        with pytest.raises(ValueError, match='does not fit its scene'):
            draw_in_scene(box, 0, (50, 50), (64, 64), WindowRules(), rng, mask_offsets=wrong, mask_bytes=data)
    with pytest.raises(ValueError, match='Row 3'):
        draw_in_scene(np.ones((1, 4)), 3, (80, 80), (64, 64), WindowRules(), np.random.default_rng(0))


def test_draw_window__holes_count_by_mask():
    """A frame whose hole is full of another object: by box it is crowded, by mask both can be cropped."""
    frame = np.zeros((120, 120), dtype=bool)
    frame[20:100, 20:100] = True
    frame[45:75, 45:75] = False
    inner = np.zeros_like(frame)
    inner[47:73, 47:73] = True
    masks = [coco.encode(np.asfortranarray(mask, dtype=np.uint8))['counts'] for mask in (frame, inner)]
    boxes = np.array([[20, 20, 100, 100], [47, 47, 73, 73]], dtype=np.float32)
    case = dict(scene_size=(120, 120), out_size=(64, 64))
    for k, by_box in ((0, 'accepted'), (1, 'crowded')):
        box, other = boxes[k], boxes[1 - k : 2 - k]
        rules = WindowRules(max_others=0.3)
        assert canonical_window(box, other, **case, rules=WindowRules(measure='box'))[1] == by_box
        window, reason = canonical_window(box, other, **case, rules=rules, masks=masks[:: 1 if k == 0 else -1])
        assert reason == 'accepted'
        pixels = [frame, inner][:: 1 if k == 0 else -1]
        assert violations(window, box, other, (120, 120), (64, 64), rules, pixels) == []
