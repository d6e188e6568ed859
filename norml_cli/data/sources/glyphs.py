"""Glyphs: artificial handwriting drawn from a seed, so that a first run needs no download.

A character is a few Bezier strokes. Each drawer varies its control points, slant, size, place and pen. The images are
the same bytes on every platform: the code uses only PCG64's uniform numbers and element-wise operations that IEEE 754
rounds exactly (+ - * / and square root, minima, clipping, rounding). It uses no sine, no matrix product, and no sum
whose order a library may choose.

Lengths are fractions of the image's side. Points are [..., 2] as (x, y), with y downwards.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from norml_cli.data.splits import ImageClasses, OnProgress
from norml_cli.registry.entries import DatasetEntry

Floats = NDArray[np.float64]

# Chosen together, so that images look like writing, and so that a nearest neighbour on raw pixels is right in half of
# 5-way 1-shot queries (tests/norml_cli/data/sources/test_glyphs.py) while a meta-learner does far better.
MAX_STROKES = 4
MIN_STROKES = 2
CONTROL_POINTS = 4  # cubic Bezier
SEGMENTS = 12  # straight pieces of a drawn stroke, each shorter than a pixel
MARGIN = 0.16  # least distance of a character's control points from the border
REACH = 0.42  # greatest distance between neighbouring control points, in x and in y
JOINED = 0.6  # probability that a stroke starts on the stroke before it
JITTER = 0.055  # greatest displacement of a control point by a drawer
SLANT = 0.22  # greatest deviation of a drawer's 2 x 2 matrix from the identity, per element
SHIFT = 0.08  # greatest displacement of the whole character by a drawer
PEN_RADIUS = (0.022, 0.042)  # half the line's width, from and to
BATCH = 50  # characters drawn at once: a few hundred megabytes at most


def draw(entry: DatasetEntry, progress: OnProgress) -> ImageClasses:
    """Draw `entry.classes` characters by `entry.examples_per_class` drawers each, with ink = 255."""
    generator = np.random.Generator(np.random.PCG64(entry.generator_seed))
    characters = _characters(generator, entry.classes)
    points, radius = _drawers(generator, characters, entry.class_sizes.max)
    size = entry.image_size_px.value
    images = np.empty((entry.classes, entry.class_sizes.max, size, size), np.uint8)
    for start in range(0, entry.classes, BATCH):
        part = slice(start, min(start + BATCH, entry.classes))
        images[part] = _render(points[part], radius[part], size)
        progress(part.stop * entry.class_sizes.max, images.shape[0] * images.shape[1])
    return ImageClasses(tuple(f"glyph-{index:03d}" for index in range(entry.classes)), images)


def source_sha256(classes: ImageClasses) -> str:
    """SHA-256 (hex) over the names and pixels of the glyphs: the entry's `source_sha256`."""
    digest = hashlib.sha256("\n".join(classes.names).encode())
    digest.update(np.ascontiguousarray(classes.images).tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------- characters


def _between(uniform: Floats, low: float, high: float) -> Floats:
    """Scale numbers from [0, 1) to [low, high)."""
    return low + uniform * (high - low)


def _characters(generator: np.random.Generator, count: int) -> Floats:
    """Control points [count, MAX_STROKES, CONTROL_POINTS, 2]. Missing strokes repeat the character's first one."""
    shape = (count, MAX_STROKES)
    points = np.empty((*shape, CONTROL_POINTS, 2))
    points[:, :, 0] = _between(generator.random((*shape, 2)), MARGIN, 1 - MARGIN)
    for index in range(1, CONTROL_POINTS):
        step = _between(generator.random((*shape, 2)), -REACH, REACH)
        points[:, :, index] = _reflected(points[:, :, index - 1] + step)
    _join(points, joined=generator.random(shape) < JOINED, along=generator.random(shape))
    strokes = MIN_STROKES + (generator.random(count) * (MAX_STROKES - MIN_STROKES + 1)).astype(np.int64)
    absent = np.arange(MAX_STROKES) >= strokes[:, None]  # [count, MAX_STROKES]
    return np.where(absent[:, :, None, None], points[:, :1], points)


def _reflected(points: Floats) -> Floats:
    """Mirror points beyond the margins back inside. Clipping would leave more strokes along the border."""
    low, high = MARGIN, 1 - MARGIN
    points = np.where(points < low, 2 * low - points, points)
    return np.where(points > high, 2 * high - points, points)


def _join(points: Floats, *, joined: NDArray[np.bool_], along: Floats) -> None:
    """Move each `joined` stroke, in place, to start on the stroke before it, at parameter `along`."""
    for stroke in range(1, MAX_STROKES):
        target = _bezier(points[:, stroke - 1], along[:, stroke, None])[:, 0]  # [count, 2]
        moved = _reflected(points[:, stroke] + (target - points[:, stroke, 0])[:, None])
        points[:, stroke] = np.where(joined[:, stroke, None, None], moved, points[:, stroke])


def _bezier(points: Floats, t: Floats) -> Floats:
    """Points [..., T, 2] at parameters t [..., T] on the cubic curves with control points [..., 4, 2]."""
    s, t = 1 - t[..., None], t[..., None]
    p0, p1, p2, p3 = (points[..., index, None, :] for index in range(CONTROL_POINTS))
    return s * s * s * p0 + 3 * (s * s * t) * p1 + 3 * (s * t * t) * p2 + t * t * t * p3


# ------------------------------------------------------------------------------------------------------------- drawers


def _drawers(generator: np.random.Generator, characters: Floats, count: int) -> tuple[Floats, Floats]:
    """Each character by `count` drawers: curves [C, count, MAX_STROKES, SEGMENTS + 1, 2] and pen radii [C, count].

    Missing strokes move with the first one, so that they stay hidden behind it.
    """
    shape = (len(characters), count)
    jitter = _between(generator.random((*shape, *characters.shape[1:])), -JITTER, JITTER)
    same = (characters == characters[:, :1]).all(axis=(2, 3))  # [C, MAX_STROKES], also true of stroke 0
    jitter = np.where(same[:, None, :, None, None], jitter[:, :, :1], jitter)
    points = characters[:, None] + jitter - 0.5  # [C, count, MAX_STROKES, 4, 2], about the centre
    matrix = _between(generator.random((4, *shape, 1, 1)), -SLANT, SLANT)
    x, y = points[..., 0], points[..., 1]
    slanted = np.stack([(1 + matrix[0]) * x + matrix[1] * y, matrix[2] * x + (1 + matrix[3]) * y], axis=-1)
    shift = _between(generator.random((*shape, 1, 1, 2)), -SHIFT, SHIFT)
    t = np.arange(SEGMENTS + 1) / SEGMENTS
    return _bezier(slanted + shift + 0.5, t), _between(generator.random(shape), *PEN_RADIUS)


# ----------------------------------------------------------------------------------------------------------- rendering


def _render(curves: Floats, radius: Floats, size_px: int) -> NDArray[np.uint8]:
    """Images uint8 [C, P, size_px, size_px]. At the edge of a line, ink falls from 255 to 0 over one pixel.

    float32 halves the time, and IEEE 754 rounds it as exactly as float64.
    """
    start = (curves[..., :-1, :] * size_px).reshape(*radius.shape, -1, 2).astype(np.float32)
    along = (curves[..., 1:, :] * size_px).reshape(*radius.shape, -1, 2).astype(np.float32) - start
    centre = np.arange(size_px, dtype=np.float32) + np.float32(0.5)
    px, py = centre[None, None, None, :], centre[None, None, :, None]
    nearest = np.full((*radius.shape, size_px, size_px), np.float32(size_px * size_px))
    for segment in range(start.shape[2]):
        ax, ay, bx, by = (part[:, :, segment, axis, None, None] for part in (start, along) for axis in (0, 1))
        length = np.maximum(bx * bx + by * by, np.float32(1e-6))  # squared; 1e-6 avoids a division by zero
        t = np.clip((px - ax) * (bx / length) + (py - ay) * (by / length), np.float32(0), np.float32(1))
        dx, dy = px - ax - t * bx, py - ay - t * by
        np.minimum(nearest, dx * dx + dy * dy, out=nearest)
    pen = (radius * size_px).astype(np.float32)[:, :, None, None]
    ink = np.clip(pen + np.float32(0.5) - np.sqrt(nearest), np.float32(0), np.float32(1))
    pixels: NDArray[np.uint8] = np.rint(ink * np.float32(255)).astype(np.uint8)
    return pixels
