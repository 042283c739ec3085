"""Counters and histograms of the request path.

prometheus_client's own take a lock and a linear walk for each observation, several of which make up
a noticeable part of a request. These are touched by the event loop alone, scrapes included.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]


class Series:
    """One counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float) -> None:
        self.value += amount


class Counters(Collector):
    """A counter for each set of label values; one that exists is exported, even at 0."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._about = (name, documentation)
        self._labels = tuple(labels)
        self._series: dict[Labels, Series] = {}

    def series(self, *values: str) -> Series:
        """The counter of these label values, made if need be; keep it where it is used often."""
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = Series()
        return found

    def describe(self) -> Iterator[Metric]:
        yield CounterMetricFamily(*self._about, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(*self._about, labels=self._labels)
        for values, series in self._series.items():
            family.add_metric(values, series.value)
        yield family


class Distribution:
    """One histogram."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        #: Observations by the first bound that is not below them; the last is beyond them all.
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Histograms(Collector):
    """A histogram for each set of label values."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self._about = (name, documentation)
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._names = [_name_of(bound) for bound in (*bounds, float("inf"))]
        self._distributions: dict[Labels, Distribution] = {}

    def distribution(self, *values: str) -> Distribution:
        """The histogram of these label values, made if need be; keep it where it is used often."""
        found = self._distributions.get(values)
        if found is None:
            found = self._distributions[values] = Distribution(self._bounds)
        return found

    def describe(self) -> Iterator[Metric]:
        yield HistogramMetricFamily(*self._about, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(*self._about, labels=self._labels)
        for values, one in self._distributions.items():
            family.add_metric(values, buckets=self._buckets(one), sum_value=one.total)
        yield family

    def _buckets(self, one: Distribution) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        up_to = 0
        buckets: list[tuple[str, float]] = []
        for name, count in zip(self._names, one.counts, strict=True):
            up_to += count
            buckets.append((name, up_to))
        return buckets


def _name_of(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]
