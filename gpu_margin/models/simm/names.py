"""Credit, equity, commodity and FX: names in buckets, buckets in a risk class.

Within a bucket the correlation of two entries is `different`, or `same` where they are of one name,
times f, the smaller concentration over the larger. Summed over all pairs that is

    different x F(names) + (same - different) x F(of one name) + (1 - same) x sum of squares,

F being `segments.pair_sums`: no pair is ever listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models.simm.curvature import curvature
from gpu_margin.models.simm.factors import Factors, Rules
from gpu_margin.models.simm.kinds import BASE_CORRELATION, RISK_CLASSES, VEGA, risk_class
from gpu_margin.models.simm.netting import Stream
from gpu_margin.models.simm.segments import Device, Segments, grouped, pair_sums, runs
from gpu_margin.models.simm.tables import RESIDUAL

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where the entries of a stream stand: in names, names in buckets, buckets in groups.

    `residual` is the place of the residual bucket, -1 where the stream has no such; `shared` says
    whether entries of several names may be one name to correlation, as those of a group are.
    """

    stream: Stream
    factors: Factors
    residual: int
    shared: bool

    @cached_property
    def groups(self) -> Segments:
        """Of entries."""
        return runs(self.stream.group)

    @cached_property
    def names(self) -> Segments:
        """Of entries: those whose concentration adds up."""
        return runs(self.stream.group, self.of("bucket"), self.of("name"))

    @cached_property
    def parts(self) -> Segments:
        """Of entries: those of one name in both senses, of concentration and of correlation."""
        return runs(self.stream.group, self.of("bucket"), self.of("name"), self.of("same"))

    @cached_property
    def buckets(self) -> Segments:
        """Of entries."""
        return runs(self.stream.group, self.of("bucket"))

    @cached_property
    def bucket(self) -> Ints:
        """[bucket] its place among the buckets of its class."""
        bucket: Ints = self.of("bucket")[self.buckets.first]
        return bucket

    @cached_property
    def group_of_bucket(self) -> Ints:
        """[bucket] which of the groups it is in."""
        owner: Ints = self.groups.owner[self.buckets.first]
        return owner

    def of(self, name: str) -> Any:
        """[entry] what the factors say."""
        return getattr(self.factors, name)[self.stream.factor]


@dataclass(frozen=True)
class Correlation:
    """Correlations of a stream: [bucket of the class] `different`, `same`; `between` buckets."""

    different: Floats
    same: Floats
    between: Floats

    def squared(self) -> Correlation:
        """As curvature has them."""
        return Correlation(self.different**2, self.same**2, self.between**2)


def correlation_of(rules: Rules, number: int) -> Correlation:
    """The correlations of a stream, the residual bucket last; 0 on the diagonal of `between`."""
    tables, name = rules.tables, RISK_CLASSES[risk_class(number)]
    if number == BASE_CORRELATION:
        return _single(tables.correlations.base_corr)
    if name == "FX":
        return _single(tables.correlations.fx_vega)
    known = rules.buckets[number]
    within = tables.within(name)
    # Commodities have no residual bucket.
    pairs = [within.get(bucket, (0.0, 0.0)) for bucket in (*known, RESIDUAL)]
    different = np.array([one for _, one in pairs])
    # Of equities and commodities a name is one factor; only credit has several of a name.
    credit = name.startswith("Credit")
    same = np.array([one if credit else 1.0 for one, _ in pairs])
    between = np.zeros((len(known) + 1, len(known) + 1))
    between[:-1, :-1] = np.array(tables.between(name)[1]) - np.eye(len(known))
    return Correlation(different, same, between)


def _single(value: float) -> Correlation:
    return Correlation(np.array([value]), np.array([1.0]), np.zeros((1, 1)))


def concentrations(layout: Layout, rules: Rules, segments: Segments) -> Floats:
    """[segment] max(1, sqrt(|sum| / threshold)), scaled; 1 at the 1-day horizon."""
    if not rules.concentrated:
        return np.ones(len(segments))
    scaled = layout.of("scale") * layout.stream.amount
    total = np.bincount(segments.owner, weights=scaled, minlength=len(segments))
    threshold = layout.of("threshold")[segments.first]
    ratio: Floats = np.maximum(1.0, np.sqrt(np.abs(total) / threshold))
    return ratio


def linear(device: Device, layout: Layout, rules: Rules, number: int) -> Array:
    """[group] delta, base correlation or vega margin of a stream of names."""
    concentration = concentrations(layout, rules, layout.names)
    each = concentration[layout.names.owner] * layout.of("weight") * layout.of("scale")
    weighted = device.put(layout.stream.amount) * device.put(each)
    if number < VEGA and RISK_CLASSES[risk_class(number)] == "FX" and number != BASE_CORRELATION:
        squares = _fx_squares(device, layout, rules, weighted, concentration)
        return device.root(squares)
    return _margin(device, layout, correlation_of(rules, number), weighted, concentration)


def bent(device: Device, layout: Layout, rules: Rules, number: int) -> tuple[Array, Array]:
    """[group] curvature margin of a stream of names, for who calls and who posts."""
    correlation = correlation_of(rules, number).squared()
    risk = device.put(layout.stream.amount) * device.put(layout.of("bend"))
    even = np.ones(len(layout.names))
    roots = _roots(device, layout, correlation, risk, even)
    # Expiries of one equity, commodity or pair are one risk; of credit each is its own.
    credit = RISK_CLASSES[risk_class(number)].startswith("Credit")
    single = risk if credit else device.sums(risk, layout.names)
    owner = layout.buckets if credit else layout.names.within(layout.buckets)
    sums = device.sums(single, owner), device.sums(device.xp.abs(single), owner)
    main, residual = (
        curvature(
            device,
            _of_groups(device, layout, sums[0], last),
            _of_groups(device, layout, sums[1], last),
            root,
        )
        for last, root in zip((False, True), roots, strict=True)
    )
    return main[0] + residual[0], main[1] + residual[1]


def layout_of(stream: Stream, factors: Factors, rules: Rules, number: int) -> Layout:
    """Where the entries of the stream of that number stand."""
    known = rules.buckets[number]
    shared = RISK_CLASSES[risk_class(number)] == "CreditNonQualifying"
    return Layout(stream, factors, len(known) if known else -1, shared)


def _margin(
    device: Device, layout: Layout, correlation: Correlation, weighted: Array, each: Floats
) -> Array:
    main, residual = _roots(device, layout, correlation, weighted, each)
    return main + residual


def _roots(
    device: Device, layout: Layout, correlation: Correlation, weighted: Array, each: Floats
) -> tuple[Array, Array]:
    """[group] root of all buckets but the residual one together, and of that one."""
    squares = _bucket_squares(device, layout, correlation, weighted, each)
    total = device.clamped(device.sums(weighted, layout.buckets), device.root(squares))
    chosen, segments = _chosen(layout, residual=False)
    cross = device.form(
        segments,
        layout.bucket[chosen],
        device.take(total, chosen),
        device.put(correlation.between),
    )
    main = device.root(_of_groups(device, layout, squares, False) + cross)
    return main, device.root(_of_groups(device, layout, squares, True))


def _bucket_squares(
    device: Device, layout: Layout, correlation: Correlation, weighted: Array, each: Floats
) -> Array:
    """[bucket] K squared; `each` [name] are concentrations."""
    buckets = layout.buckets
    owner = layout.names.within(buckets).owner
    by_name = device.sums(weighted, layout.names)
    pairs = pair_sums(device, by_name, each, owner, len(buckets))
    same = _same_name(device, layout, weighted, by_name, each)
    own = device.sums(weighted * weighted, buckets)
    different, equal = correlation.different[layout.bucket], correlation.same[layout.bucket]
    return (
        device.put(different) * pairs
        + device.put(equal - different) * same
        + device.put(1.0 - equal) * own
    )


def _same_name(
    device: Device, layout: Layout, weighted: Array, by_name: Array, each: Floats
) -> Array:
    """[bucket] F of entries of one name."""
    buckets = layout.buckets
    if not layout.shared:
        return device.sums(by_name * by_name, layout.names.within(buckets))
    by_part = device.sums(weighted, layout.parts)
    bucket = buckets.owner[layout.parts.first]
    width = int(layout.factors.same.max(initial=0)) + 1
    key = bucket * width + layout.of("same")[layout.parts.first]
    known, owner = np.unique(key, return_inverse=True)
    concentration = each[layout.names.owner[layout.parts.first]]
    pairs = pair_sums(device, by_part, concentration, owner.reshape(-1), len(known))
    return device.sums(pairs, grouped(known // width, len(buckets)))


def _fx_squares(
    device: Device, layout: Layout, rules: Rules, weighted: Array, each: Floats
) -> Array:
    """[group] K squared of currencies, whose correlation depends on two volatility groups."""
    base = rules.tables.fx_group(rules.calculation_currency)
    (high, mixed), (_, low) = (tuple(row) for row in rules.tables.correlations.fx[base])
    count = len(layout.groups)
    owner, group = layout.groups.owner, layout.of("group")
    whole = pair_sums(device, weighted, each, owner, count)
    parts = pair_sums(device, weighted, each, 2 * owner + group, 2 * count)
    places = 2 * np.arange(count)
    of_high, of_low = device.take(parts, places), device.take(parts, places + 1)
    left = device.put(np.where(group == 0, 1.0 - high, 1.0 - low))
    own = device.sums(left * (weighted * weighted), layout.groups)
    return high * of_high + low * of_low + mixed * (whole - of_high - of_low) + own


def _chosen(layout: Layout, residual: bool) -> tuple[Ints, Segments]:
    """The buckets that are (not) residual, and which of these each group has."""
    last = layout.bucket == layout.residual
    chosen = np.flatnonzero(last if residual else ~last)
    return chosen, grouped(layout.group_of_bucket[chosen], len(layout.groups))


def _of_groups(device: Device, layout: Layout, values: Array, residual: bool) -> Array:
    """[group] sum of values [bucket] of those that are (not) residual."""
    chosen, segments = _chosen(layout, residual)
    return device.sums(device.take(values, chosen), segments)
