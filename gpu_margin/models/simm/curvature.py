"""Curvature margin from the sums of curvature risk, on both sides."""

from __future__ import annotations

from typing import Any

from scipy.special import ndtri

from gpu_margin.models.simm.segments import Device

Array = Any

_TAIL = float(ndtri(0.995)) ** 2 - 1.0


def curvature(device: Device, total: Array, gross: Array, root: Array) -> tuple[Array, Array]:
    """Margins of who calls and of who posts, whose curvature risk has the other sign.

    `total` and `gross` are the sums of curvature risk and of its sizes, `root` the square root of
    its aggregate; all are [group]. theta = min(total / gross, 0) and lambda = (z^2 - 1)(1 + theta)
    - theta, z being the normal quantile of 99.5%; the margin is total + lambda root where that is
    positive.
    """
    return _side(device, total, gross, root), _side(device, -total, gross, root)


def _side(device: Device, total: Array, gross: Array, root: Array) -> Array:
    xp, none = device.xp, device.zeros(total)
    some = gross > 0.0
    theta = xp.minimum(xp.where(some, total / xp.where(some, gross, gross + 1.0), none), none)
    factor = _TAIL * (1.0 + theta) - theta
    return xp.maximum(total + factor * root, none)


def curvature_slopes(
    device: Device, total: Array, gross: Array, root: Array
) -> list[tuple[Array, Array, Array]]:
    """Slopes of both sides' margins in the total, gross and root that `curvature` has; [group].

    0 where the margin is 0. theta moves with the sums that it is made of: it is of degree 0.
    """
    return [_side_slopes(device, sign, total, gross, root) for sign in (1.0, -1.0)]


def _side_slopes(
    device: Device, sign: float, total: Array, gross: Array, root: Array
) -> tuple[Array, Array, Array]:
    xp, none = device.xp, device.zeros(total)
    total, some = sign * total, gross > 0.0
    gross = xp.where(some, gross, none + 1.0)
    theta = xp.minimum(xp.where(some, total / gross, none), none)
    factor = _TAIL * (1.0 + theta) - theta
    positive = total + factor * root > 0.0
    # Of lambda in theta, over gross: what one more of the total, or of gross, moves.
    turn = xp.where(theta < 0.0, (_TAIL - 1.0) * root / gross, none)
    of_total, of_gross, of_root = (
        xp.where(positive, one, none) for one in (sign * (1.0 + turn), -(turn * theta), factor)
    )
    return of_total, of_gross, of_root
