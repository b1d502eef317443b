"""How the demo scenes are drawn: shapes, textures, backgrounds and one object at a time.

Shapes are signed distance functions in an object's own unit coordinates (u, v), so that edges are antialiased at any
size and rotation; textures are functions of the same coordinates.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image

OBJECT_CLASSES = ('disc', 'box', 'triangle', 'star', 'ring', 'cross')
STUFF_CLASSES = ('sky', 'grass', 'sand')

_EDGE_SOFTNESS = 0.5  # pixels on either side of an edge that are blended
_STAR_INNER = 0.5  # inner radius of the star over its outer radius
_CROSS_ARM = 0.38  # half width of the cross's arms over its half length
_RING_WIDTH = 0.24  # half width of the ring's band; its middle line has radius 1 - _RING_WIDTH


def smooth(value: np.ndarray) -> np.ndarray:
    """0..1 from a signed distance in pixels (positive = inside): a one-pixel antialiased step."""
    return np.clip(value / (2 * _EDGE_SOFTNESS) + 0.5, 0.0, 1.0)


def _regular_polygon(corners: int, radius: float = 1.0) -> np.ndarray:
    angle = -np.pi / 2 + 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def outline_of(name: str, stretch: float) -> np.ndarray | None:
    """(V, 2) corners of a class's outline in its own unit coordinates; None for the ring, which has a hole."""
    if name == 'disc':
        return _regular_polygon(48)
    if name == 'box':
        return np.array([[-1, -stretch], [1, -stretch], [1, stretch], [-1, stretch]], dtype=float)
    if name == 'triangle':
        return _regular_polygon(3)
    if name == 'star':
        outer, inner = _regular_polygon(5), _regular_polygon(10, _STAR_INNER)[1::2]
        return np.stack([outer, inner], axis=1).reshape(-1, 2)
    if name == 'cross':
        a = _CROSS_ARM
        quarter = np.array([[a, -1], [a, -a], [1, -a]])
        turns = [np.array([[0, -1], [1, 0]]), -np.eye(2), np.array([[0, 1], [-1, 0]])]
        return np.concatenate([quarter, *(quarter @ turn.T for turn in turns)])
    return None


def signed_distance(name: str, u: np.ndarray, v: np.ndarray, stretch: float) -> np.ndarray:
    """Distance to the outline in unit coordinates, positive inside (exact near edges, a bound near corners)."""
    if name == 'disc':
        return 1.0 - np.hypot(u, v)
    if name == 'box':
        return np.minimum(1.0 - np.abs(u), stretch - np.abs(v))
    if name == 'ring':
        return _RING_WIDTH - np.abs(np.hypot(u, v) - (1.0 - _RING_WIDTH))
    if name == 'triangle':
        return np.minimum.reduce(
            [0.5 - (np.cos(a) * u + np.sin(a) * v) for a in (np.pi / 2, np.pi * 7 / 6, np.pi * 11 / 6)]
        )
    if name == 'cross':
        a, b = np.abs(u), np.abs(v)
        return np.maximum(np.minimum(1.0 - a, _CROSS_ARM - b), np.minimum(1.0 - b, _CROSS_ARM - a))
    if name == 'star':
        radius, angle = np.hypot(u, v), np.arctan2(v, u) + np.pi / 2
        angle = np.abs(np.mod(angle + np.pi / 5, 2 * np.pi / 5) - np.pi / 5)  # folded on one half of one ray
        p, q = radius * np.cos(angle), radius * np.sin(angle)
        inner = _STAR_INNER * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
        edge = inner - np.array([1.0, 0.0])
        normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)  # points outwards
        return -((p - 1.0) * normal[0] + q * normal[1])
    raise ValueError(f'unknown object class {name!r}; the classes are {", ".join(OBJECT_CLASSES)}.')


def texture(name: str, u: np.ndarray, v: np.ndarray, pixels: float, phase: float, density: float) -> np.ndarray:
    """Blend of an object's two colours, 0..1, in its own coordinates; ``pixels`` per unit keep edges one pixel wide."""
    if name == 'star':  # plain: a soft fade from the middle
        return np.clip(1.15 - 1.1 * np.hypot(u, v), 0, 1)
    if name == 'ring':  # spokes
        spokes = np.round(5 + 3 * density)
        wave, slope = np.sin(spokes * (np.arctan2(v, u) + phase)), spokes
    elif name == 'disc':  # stripes
        slope = 6.0 + 5.0 * density
        wave = np.sin(slope * u + phase)
    elif name == 'box':  # checks
        slope = 4.5 + 3.0 * density
        wave = np.sin(slope * u + phase) * np.sin(slope * v + phase)
    elif name == 'triangle':  # dots on a grid
        slope = 7.0 + 4.0 * density
        wave = np.sin(slope * u + phase) + np.sin(slope * v + phase) - 0.75
    else:  # cross: wavy bands
        slope = 8.0 + 4.0 * density
        wave = np.sin(slope * v + 1.6 * np.sin(5.0 * u + phase))
    return smooth(wave * pixels / slope)


def noise(
    rng: np.random.Generator, width: int, height: int, cells: tuple[float, float], octaves: int = 3
) -> np.ndarray:
    """(height, width) smooth noise of mean 0 and deviation 1; ``cells`` = across and down in the coarsest octave."""
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(octaves):
        across, down = (max(2, round(c * 2**octave)) for c in cells)
        grid = Image.fromarray(rng.standard_normal((down, across)).astype(np.float32))
        total += 0.6**octave * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return (total - total.mean()) / (total.std() + 1e-6)


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3,) colour in 0..255; the hue is taken modulo 1, the other two are clipped to 0..1."""
    return 255.0 * np.array(
        colorsys.hsv_to_rgb(hue % 1.0, float(np.clip(saturation, 0, 1)), float(np.clip(value, 0, 1)))
    )


def background(rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Sky over grass and sand: (H, W, 3) float pixels and the (H, W) index of the stuff class."""
    y = np.arange(height, dtype=np.float32)[:, None]
    column = np.arange(width, dtype=np.float32)[None, :]

    # Sky: from midday blue to a pale evening, with soft clouds.
    evening = rng.random() ** 2
    top = rgb(0.57 + 0.04 * rng.random(), 0.55 - 0.2 * evening, 0.95 - 0.25 * evening)
    low = rgb(0.55 * (1 - evening) + 0.08 * evening, 0.18 + 0.2 * evening, 0.97)
    fade = np.clip(y / (0.7 * height), 0, 1)[..., None]
    clouds = np.clip(0.5 * noise(rng, width, height, (3, 5)) - 0.2 + 0.5 * rng.random(), 0, 1)[..., None]
    sky = (top * (1 - fade) + low * fade) * (1 - 0.8 * clouds) + rgb(0.1, 0.04 + 0.08 * evening, 0.99) * 0.8 * clouds

    # Grass: fine upright blades and larger patches. Sand: grain and slanted ripples. Lighter towards the viewer.
    near = 0.85 + 0.2 * (y / height)
    blades = noise(rng, width, height, (width / 2.5, height / 9), 1)
    patches = noise(rng, width, height, (4, 6))
    grass_colour = rgb(0.21 + 0.12 * rng.random(), 0.45 + 0.3 * rng.random(), 0.45 + 0.25 * rng.random())
    grass = grass_colour * (near * (1 + 0.13 * blades + 0.08 * patches))[..., None]
    ripple_length = width / rng.uniform(14, 26)
    ripples = np.sin(2 * np.pi * (y + 0.35 * column) / ripple_length + 1.2 * noise(rng, width, height, (4, 4)))
    grain = rng.standard_normal((height, width))
    sand_colour = rgb(0.08 + 0.06 * rng.random(), 0.2 + 0.3 * rng.random(), 0.75 + 0.17 * rng.random())
    sand = sand_colour * (near * (1 + 0.05 * ripples + 0.05 * grain))[..., None]

    def line(level: float, roughness: float) -> np.ndarray:
        return height * (level + roughness * noise(rng, width, 1, (4, 2)))[0][None, :]

    horizon = line(rng.uniform(0.25, 0.55), 0.015)
    shore = line(rng.uniform(0.3, 1.15), 0.05) + rng.uniform(-0.5, 0.5) * (column - width / 2)
    below_horizon, below_shore = smooth(y - horizon)[..., None], smooth(y - shore)[..., None]
    far, close = (grass, sand) if rng.random() < 0.5 else (sand, grass)
    ground = far * (1 - below_shore) + close * below_shore
    pixels = sky * (1 - below_horizon) + ground * below_horizon
    far_id, close_id = (1, 2) if far is grass else (2, 1)
    stuff = np.where(below_horizon[..., 0] < 0.5, 0, np.where(below_shore[..., 0] < 0.5, far_id, close_id))
    return pixels, stuff


@dataclass(frozen=True)
class Placed:
    """Where and how one object is drawn: its area of the image and everything measured there."""

    rows: slice
    columns: slice
    distance: np.ndarray  # pixels, positive inside
    shadow: np.ndarray  # the same for the shadow
    facing: np.ndarray  # -1..1, towards the light
    u: np.ndarray
    v: np.ndarray
    radius: float
    outline: np.ndarray | None  # (V, 2) pixels of the scene

    @property
    def mask(self) -> np.ndarray:
        return self.distance >= 0


def place(rng: np.random.Generator, name: str, width: int, height: int, light: np.ndarray) -> Placed:
    """One object of random size, aspect, rotation and position; its centre is inside the scene, its rim may not be."""
    short = min(width, height)
    radius = float(short * np.exp(rng.uniform(np.log(0.10), np.log(0.29))))
    centre = np.array(
        [rng.uniform(0.5 * radius, width - 0.5 * radius), rng.uniform(0.5 * radius, height - 0.5 * radius)]
    )
    angle = rng.uniform(-np.pi, np.pi) if name in ('disc', 'ring') else rng.uniform(-0.6, 0.6)
    squeeze = rng.uniform(0.75, 1.0)  # a slanted view: one axis is shortened
    stretch = rng.uniform(0.55, 1.0)  # the box's own aspect
    cos, sin = np.cos(angle), np.sin(angle)

    drop = 0.16 * radius * light  # the shadow falls away from the light
    reach = 1.45 * radius + np.abs(drop) + 2
    x1, x2 = max(0, int(centre[0] - reach[0])), min(width, int(centre[0] + reach[0]) + 1)
    y1, y2 = max(0, int(centre[1] - reach[1])), min(height, int(centre[1] + reach[1]) + 1)
    x = np.arange(x1, x2)[None, :] + 0.5 - centre[0]
    y = np.arange(y1, y2)[:, None] + 0.5 - centre[1]

    def own(dx: float, dy: float) -> tuple[np.ndarray, np.ndarray]:
        return ((x - dx) * cos + (y - dy) * sin) / radius, (-(x - dx) * sin + (y - dy) * cos) / (radius * squeeze)

    u, v = own(0.0, 0.0)
    distance = signed_distance(name, u, v, stretch) * radius * squeeze
    shadow = signed_distance(name, *own(-drop[0], -drop[1]), stretch) * radius * squeeze
    facing = (x * light[0] + y * light[1]) / radius
    corners = outline_of(name, stretch)
    if corners is not None:
        corners = corners * [radius, radius * squeeze] @ np.array([[cos, sin], [-sin, cos]]) + centre
    return Placed(slice(y1, y2), slice(x1, x2), distance, shadow, facing, u, v, radius, corners)


def paint(rng: np.random.Generator, name: str, placed: Placed, pixels: np.ndarray) -> None:
    """Draw the shadow and the object over ``pixels`` (H, W, 3) in place. Colours are drawn alike for all classes."""
    hue, saturation, value = rng.random(), rng.uniform(0.45, 0.9), rng.uniform(0.6, 0.98)
    first = rgb(hue, saturation, value)
    if rng.random() < 0.5:  # a light partner, or a darker one of a neighbouring hue
        second = rgb(hue + rng.uniform(-0.1, 0.1), 0.15 * rng.random(), rng.uniform(0.9, 1.0))
        first *= 0.85
    else:
        second = rgb(hue + rng.choice([-1, 1]) * rng.uniform(0.05, 0.2), saturation, 0.45 * value)
    if rng.random() < 0.5:
        first, second = second, first
    blend = texture(name, placed.u, placed.v, placed.radius, rng.uniform(0, 2 * np.pi), rng.random())[..., None]
    colour = first * (1 - blend) + second * blend

    rows, columns = placed.rows, placed.columns
    facing = 0.16 * placed.facing
    rim = 0.75 + 0.25 * np.clip(placed.distance / (0.12 * placed.radius), 0, 1)
    colour = colour * ((1 + facing) * rim)[..., None]
    area = pixels[rows, columns]
    dark = 0.38 * np.clip(placed.shadow / (0.16 * placed.radius) + 0.5, 0, 1)[..., None]
    alpha = smooth(placed.distance)[..., None]
    pixels[rows, columns] = area * (1 - dark) * (1 - alpha) + colour * alpha
