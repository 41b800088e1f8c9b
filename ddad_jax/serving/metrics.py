"""The metrics of a server, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60)
PHOTOGRAPHS = (1, 2, 4, 8, 16, 32, 64)
SHARES = tuple(tenth / 10 for tenth in range(1, 11))


class Metrics:
    """All metrics, in a registry of their own.

    Attributes:
      registry: holds all metrics.
      here: the number of photographs that are waiting or being judged.
    """

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def of(kind, name, text, *labels, **more):
            return kind(f"ddad_jax_{name}", text, labels, registry=self.registry, **more)

        self.here: Gauge = of(
            Gauge, "photographs_here", "Photographs that are waiting or being judged."
        )
        self._requests = of(Counter, "requests", "Requests that were answered.", "route", "status")
        self._seconds = of(
            Histogram, "request_seconds", "Seconds from a request's head to its answer.", "route",
            buckets=SECONDS,
        )  # fmt: skip
        self._decisions = of(
            Counter, "photographs", "Photographs that were judged.", "detector", "decision"
        )
        self._scores = of(
            Histogram, "calibrated_score", "Calibrated scores; 0.5 is the threshold.", "detector",
            buckets=SHARES,
        )  # fmt: skip
        self._batches = of(
            Histogram, "batch_photographs", "Photographs judged in one batch.", "detector",
            buckets=PHOTOGRAPHS,
        )  # fmt: skip
        self._judging = of(
            Histogram, "batch_seconds", "Seconds that a batch takes.", "detector", buckets=SECONDS
        )
        self._threshold = of(
            Gauge, "threshold", "The score above which a photograph is anomalous.", "detector"
        )
        self._loaded = of(Counter, "loads", "How often a detector was loaded.", "detector")

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def decided(self, detector: str, decision: str, calibrated_score: float) -> None:
        """Counts a photograph."""
        self._decisions.labels(detector, decision).inc()
        self._scores.labels(detector).observe(calibrated_score)

    def judged(self, detector: str, photographs: int, seconds: float) -> None:
        """Counts a batch."""
        self._batches.labels(detector).observe(photographs)
        self._judging.labels(detector).observe(seconds)

    def loaded(self, detector: str, threshold: float) -> None:
        """Counts a detector that can now be asked."""
        self._loaded.labels(detector).inc()
        self._threshold.labels(detector).set(threshold)
