"""The shapes and positions of the windows that obey the rules where there are no other objects, in closed form.

Let t_w, t_h be the target's sides, A the window's area and a its aspect (width / height). With x = sqrt(A a) / t_w and
y = sqrt(A / a) / t_h the largest part of the target that such a window can hold is min(1, x) min(1, y) = min(1, x, y,
xy), so each rule is one or more bounds of the form  A >= c a^p  or  A <= c a^p.  In (log a, log A) these are straight
lines: the feasible set is a convex polygon, from which aspect and area are drawn log-uniformly without a miss. For a
given shape the feasible positions are an interval per axis.
"""

from __future__ import annotations

import math

import numpy as np

from .rules import SLACK, WindowRules


class WindowShapes:
    """The shapes (aspect, area) of the windows that obey every rule but the one about the others, for one target.

    Args:
        target: (4,) box inside the scene.
        scene_size: (width, height) of the scene.
        out_size: (height, width) of the crop.
        rules: the rules; they are narrowed by a relative 1e-4.

    Attributes:
        log_aspect: (low, high) of log(width / height) of the feasible windows; low > high if there are none.
        log_out_aspect: log(width / height) of the crop; a window of this aspect is not distorted.
    """

    def __init__(
        self,
        target: np.ndarray,
        scene_size: tuple[int, int],
        out_size: tuple[int, int],
        rules: WindowRules,
    ) -> None:
        inside, fill = min(1.0, rules.min_inside * (1 + SLACK)), rules.min_fill * (1 + SLACK)
        offset = rules.max_offset * (1 - SLACK)
        scale = rules.max_upsample * (1 - SLACK)
        x1, y1, x2, y2 = (float(c) for c in target)
        t_w, t_h = x2 - x1, y2 - y1
        out_h, out_w = out_size
        # A window inside the scene whose centre is near the target's centre cannot be wider than this.
        room_w = min(scene_size[0], (min(x1 + x2, 2 * scene_size[0] - x1 - x2) / 2) / (0.5 - offset))
        room_h = min(scene_size[1], (min(y1 + y2, 2 * scene_size[1] - y1 - y2) / 2) / (0.5 - offset))
        # Bounds log A >= c + p log a and log A <= c + p log a. A bound on the width s gives A = s^2 / a, one on the
        # height A = s^2 a.
        log = math.log
        self._low = np.array(
            [
                (log(inside * t_w * t_h), 0.0),
                (2 * log(inside * t_w), -1.0),
                (2 * log(inside * t_h), 1.0),
                (2 * log(out_w / scale), -1.0),
                (2 * log(out_h / scale), 1.0),
            ]
        )
        self._high = np.array(
            [
                (log(t_w * t_h / fill), 0.0),
                (2 * log(t_h / fill), 1.0),
                (2 * log(t_w / fill), -1.0),
                (2 * log(room_w), -1.0),
                (2 * log(room_h), 1.0),
            ]
        )
        # Each pair (lower, upper) leaves a half-line of aspects:  (c_u - c_l) + (p_u - p_l) log a >= 0.
        shift = log(out_w / out_h)
        low, high = shift + log(rules.aspect[0]) + SLACK, shift + log(rules.aspect[1]) - SLACK
        if low > high:
            low = high = (low + high) / 2
        constant = self._high[None, :, 0] - self._low[:, None, 0]
        slope = self._high[None, :, 1] - self._low[:, None, 1]
        with np.errstate(divide='ignore', invalid='ignore'):
            crossing = -constant / slope
        if np.any(constant[slope == 0] < 0):
            low, high = 1.0, 0.0
        else:
            low = max(low, float(np.max(crossing[slope > 0])))
            high = min(high, float(np.min(crossing[slope < 0])))
        self.log_aspect = (low, high)
        self.log_out_aspect = shift
        self._target = (x1, y1, x2, y2)
        self._scene_size = scene_size
        self._inside, self._fill, self._offset = inside, fill, offset

    @property
    def empty(self) -> bool:
        """Whether no window obeys these rules."""
        return self.log_aspect[0] > self.log_aspect[1]

    def log_area(self, log_aspect: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Feasible interval of log area for each feasible log aspect."""
        low = np.max(self._low[:, :1] + self._low[:, 1:] * log_aspect, axis=0)
        high = np.min(self._high[:, :1] + self._high[:, 1:] * log_aspect, axis=0)
        return low, np.maximum(low, high)

    def positions(self, axis: int, side: np.ndarray, overlap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Feasible interval of a window's start on one axis (0 = x, 1 = y).

        Args:
            axis: 0 for x1, 1 for y1.
            side: (T,) window sides on this axis.
            overlap: (T,) least overlap with the target on this axis, in pixels.
        """
        start, stop = self._target[axis], self._target[axis + 2]
        centred = (start + stop) / 2 - side / 2
        low = np.maximum(np.maximum(centred - self._offset * side, 0.0), start + overlap - side)
        high = np.minimum(np.minimum(centred + self._offset * side, self._scene_size[axis] - side), stop - overlap)
        return low, np.maximum(low, high)

    def overlap(self, axis: int, start: np.ndarray, side: np.ndarray) -> np.ndarray:
        """(T,) overlap of the window [start, start + side] with the target on one axis."""
        return np.minimum(start + side, self._target[axis + 2]) - np.maximum(start, self._target[axis])

    def needed(self, width: np.ndarray, height: np.ndarray) -> np.ndarray:
        """(T,) area of the target that a window of this shape has to hold."""
        x1, y1, x2, y2 = self._target
        return np.maximum(self._inside * (x2 - x1) * (y2 - y1), self._fill * width * height)

    def nearest_centred(self, width: np.ndarray, height: np.ndarray) -> np.ndarray:
        """(T, 4) the windows of these shapes whose centre is nearest to the target's, inside the scene."""
        x1, y1, x2, y2 = self._target
        x = np.clip((x1 + x2 - width) / 2, 0, np.maximum(self._scene_size[0] - width, 0))
        y = np.clip((y1 + y2 - height) / 2, 0, np.maximum(self._scene_size[1] - height, 0))
        return np.stack([x, y, x + width, y + height], axis=-1)

    def place(
        self, width: np.ndarray, height: np.ndarray, u: np.ndarray, v: np.ndarray, x_first: np.ndarray
    ) -> np.ndarray:
        """(T, 4) windows of the given shapes; u, v in 0..1 say where in its feasible interval each axis lies.

        The axis that is placed first must leave the other one enough room: it has to hold the needed area over the most
        that the other one can hold. The second axis then holds the rest. A feasible shape obeys all rules when it is
        nearest to centred, so no interval is empty.
        """
        sides = (width, height)
        most = (
            np.minimum(width, self._target[2] - self._target[0]),
            np.minimum(height, self._target[3] - self._target[1]),
        )
        needed = self.needed(width, height)

        def one_order(first: int, second: int, share: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            low, high = self.positions(first, sides[first], needed / most[second])
            start_first = low + share[first] * (high - low)
            held = np.maximum(self.overlap(first, start_first, sides[first]), 1e-9)
            low, high = self.positions(second, sides[second], np.minimum(needed / held, most[second]))
            return start_first, low + share[second] * (high - low)

        x_a, y_a = one_order(0, 1, (u, v))
        y_b, x_b = one_order(1, 0, (u, v))
        x, y = np.where(x_first, x_a, x_b), np.where(x_first, y_a, y_b)
        return np.stack([x, y, x + width, y + height], axis=-1)
