"""Z-buffer rasteriser: which triangle is seen at every sample. Image y is down, pixel centres at integers."""

from __future__ import annotations

import math

import numba
import numpy as np

NOTHING = -1
"""Triangle number of a sample that shows the background."""


@numba.njit(cache=True, nogil=True)
def draw(triangles, first, last, cull, xy, iw, depth, seen):  # type: ignore[no-untyped-def]
    """Draw triangles[first:last] into `depth` [H, W] float32 (1 / distance, 0: nothing), `seen` [H, W] int32.

    `xy` [V, 2] are sample coordinates, `iw` [V] inverse distances (linear on the screen, so depth is exact
    under perspective). With `cull`, triangles that show their back are left out: they are counter-clockwise
    seen from outside with y up, so a visible one has negative area with y down.
    """
    height, width = depth.shape
    for t in range(first, last):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, bx, by, cx, cy = xy[a, 0], xy[a, 1], xy[b, 0], xy[b, 1], xy[c, 0], xy[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0 or (cull and area > 0.0):
            continue
        x0 = max(0, math.ceil(min(ax, bx, cx)))
        x1 = min(width - 1, math.floor(max(ax, bx, cx)))
        y0 = max(0, math.ceil(min(ay, by, cy)))
        y1 = min(height - 1, math.floor(max(ay, by, cy)))
        if x0 > x1 or y0 > y1:
            continue
        inverse = np.float32(1.0) / area
        # Barycentric weights are affine in x and y: u for b, v for c.
        ux, uy = (cy - ay) * inverse, -(cx - ax) * inverse
        vx, vy = -(by - ay) * inverse, (bx - ax) * inverse
        wa, wb, wc = iw[a], iw[b], iw[c]
        for y in range(y0, y1 + 1):
            u = (x0 - ax) * ux + (y - ay) * uy
            v = (x0 - ax) * vx + (y - ay) * vy
            for x in range(x0, x1 + 1):
                if u >= 0.0 and v >= 0.0 and u + v <= 1.0:
                    z = wa + u * (wb - wa) + v * (wc - wa)
                    if z > depth[y, x]:
                        depth[y, x] = z
                        seen[y, x] = t
                u += ux
                v += vx


@numba.njit(cache=True, nogil=True)
def draw_veil(triangles, first, last, xy, iw, depth, opacity, veil):  # type: ignore[no-untyped-def]
    """Semi-transparent triangles in front of what is drawn: veil [H, W] = 1 - prod(1 - opacity); no depth."""
    height, width = depth.shape
    for t in range(first, last):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, bx, by, cx, cy = xy[a, 0], xy[a, 1], xy[b, 0], xy[b, 1], xy[c, 0], xy[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        x0 = max(0, math.ceil(min(ax, bx, cx)))
        x1 = min(width - 1, math.floor(max(ax, bx, cx)))
        y0 = max(0, math.ceil(min(ay, by, cy)))
        y1 = min(height - 1, math.floor(max(ay, by, cy)))
        inverse = np.float32(1.0) / area
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                u = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) * inverse
                v = ((y - ay) * (bx - ax) - (x - ax) * (by - ay)) * inverse
                inside = u >= 0.0 and v >= 0.0 and u + v <= 1.0
                if inside and iw[a] + u * (iw[b] - iw[a]) + v * (iw[c] - iw[a]) > depth[y, x]:
                    veil[y, x] = 1.0 - (1.0 - veil[y, x]) * (1.0 - opacity)


@numba.njit(cache=True, nogil=True)
def draw_strands(triangles, first, last, xy, iw, density, uv, noise, depth, seen):  # type: ignore[no-untyped-def]
    """As `draw`, for hair: a sample is kept where the interpolated `density` [V] exceeds the strand noise.

    `uv` [V, 2] are texel coordinates of `noise` [N, N] float32 in [0, 1] (tiled); N is a power of two.
    """
    height, width = depth.shape
    wrap = noise.shape[0] - 1
    for t in range(first, last):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        if density[a] <= 0.0 and density[b] <= 0.0 and density[c] <= 0.0:
            continue
        ax, ay, bx, by, cx, cy = xy[a, 0], xy[a, 1], xy[b, 0], xy[b, 1], xy[c, 0], xy[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        x0 = max(0, math.ceil(min(ax, bx, cx)))
        x1 = min(width - 1, math.floor(max(ax, bx, cx)))
        y0 = max(0, math.ceil(min(ay, by, cy)))
        y1 = min(height - 1, math.floor(max(ay, by, cy)))
        inverse = np.float32(1.0) / area
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                u = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) * inverse
                v = ((y - ay) * (bx - ax) - (x - ax) * (by - ay)) * inverse
                if u < 0.0 or v < 0.0 or u + v > 1.0:
                    continue
                z = iw[a] + u * (iw[b] - iw[a]) + v * (iw[c] - iw[a])
                if z <= depth[y, x]:
                    continue
                d = density[a] + u * (density[b] - density[a]) + v * (density[c] - density[a])
                if d < 1.0:
                    s = uv[a, 0] + u * (uv[b, 0] - uv[a, 0]) + v * (uv[c, 0] - uv[a, 0])
                    r = uv[a, 1] + u * (uv[b, 1] - uv[a, 1]) + v * (uv[c, 1] - uv[a, 1])
                    if d <= noise[math.floor(r) & wrap, math.floor(s) & wrap]:
                        continue
                depth[y, x] = z
                seen[y, x] = t
