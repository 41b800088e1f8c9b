"""The threshold: the score that few new good images exceed, from the scores of those there are.

With n scores, the highest of them is exceeded by one new good image in n + 1, whatever the scores'
distribution. A rarer false alarm is a matter of the distribution's tail, of which few scores say
little: the threshold is then put so high that the rate holds for tails as heavy as `_tails` has.
"""

import functools
import math
from typing import Any

import numpy as np
from jaxtyping import Float

QUARTILES = (0.25, 0.5, 0.75)
# One score in so many may be of a defect that slipped in among the good ones: they are passed over.
ODD = 20
# Never more than so many.
MOST_ODD = 10
# Fewer scores promise nothing.
FEW = 5
# The threshold of those few is at least so many times the highest, counted from the usual pixel.
SAFE = 2.0
# Random numbers that a tail is simulated with.
DRAWS, MOST_ROWS = 4_000_000, 200_000
# What simulation leaves open.
MARGIN = 0.95


def fit_threshold(scores: Float[np.ndarray, " n"], false_alarm_rate: float) -> tuple[float, float]:
    """The score that new good images exceed at the given rate, and the scale of the scores.

    It is the conformal quantile where enough scores lie beyond it. Else it extends the distance
    from the median to the highest score, or to one further down where there are `ODD` scores or
    more, by the factor that keeps the promise of `promised_rate`.

    Args:
      scores: of good images that no network and no bank was fitted to; 0 is the usual pixel.
      false_alarm_rate: in (0, 1).
    """
    count, ordered = len(scores), np.sort(scores)
    low, middle, high = np.quantile(ordered, QUARTILES)
    spread = (high - low) / float(np.diff(_tails()[0].ppf(QUARTILES[::2]))[0])
    beyond = _beyond(count)
    if beyond <= false_alarm_rate * (count + 1):
        threshold = ordered[-math.floor(false_alarm_rate * (count + 1))]
    else:
        threshold = middle + _stretch(count, false_alarm_rate) * (ordered[-beyond] - middle)
        if count < FEW:
            threshold = max(threshold, SAFE * ordered[-1])
            # The scores say nothing of their scale either: the threshold is four times that away.
            spread = max(spread, (threshold - middle) / 4.0)
    return float(threshold), max(float(spread), 1e-6)


def promised_rate(count: int, false_alarm_rate: float) -> float:
    """The share of new good images that are called anomalous, at most, on average.

    For light tails it is about half of that, and never above what was asked for from ten scores on.

    Args:
      count: good images that the threshold is from.
      false_alarm_rate: what was asked for.

    Returns:
      In (0, 1]; 1 for fewer than `FEW`, which promise nothing.
    """
    return 1.0 if count < FEW else _aimed_at(count, false_alarm_rate)


def _aimed_at(count: int, false_alarm_rate: float) -> float:
    beyond = _beyond(count)
    if beyond <= false_alarm_rate * (count + 1):
        return false_alarm_rate
    return min(false_alarm_rate * max(2.0, 1.0 + 10.0 / count), beyond / (count + 1))


def promise(count: int, false_alarm_rate: float) -> str:
    """What a threshold from so many good images can promise, in words."""
    source = f"from {count} good image{'s' if count > 1 else ''}"
    asked = f"{100 * false_alarm_rate:g} %"
    promised = promised_rate(count, false_alarm_rate)
    if count < FEW:
        return (
            f"{source}, too few to promise {asked} false alarms or any other rate; it is set high, "
            f"and weak defects may be missed; add good images, {FEW} at the least"
        )
    if promised <= false_alarm_rate:
        return f"{source}: {asked} false alarms on average, as asked for"
    needed = math.ceil(MOST_ODD / false_alarm_rate) - 1
    return (
        f"{source}: at most {100 * promised:.2g} % false alarms on average; "
        f"to promise the {asked} asked for takes {needed}"
    )


def _beyond(count: int) -> int:
    """The rank, from the highest, of the score that a threshold rests on."""
    return min(1 + count // ODD, MOST_ODD)


def _tails() -> tuple[Any, Any]:
    """The usual and the heaviest distribution reckoned with.

    Scores are maxima of maps. Of the limits that maxima have, Gumbel's is that of light tails.
    Fréchet's of shape 3, of finite variance but not skewness, is the heavy one.
    """
    # SciPy's statistics take a second to import, and who only predicts needs none.
    from scipy.stats import gumbel_r, invweibull

    return gumbel_r, invweibull(3)


@functools.lru_cache
def _stretch(count: int, false_alarm_rate: float) -> float:
    """What to multiply the distance from the median to the score at rank `_beyond` by.

    The smallest factor whose threshold, in simulation, is exceeded at most at the promised rate by
    scores of the heaviest tail, and at most at half of that by scores of the usual one.
    """
    from scipy.optimize import brentq

    if count == 1:
        return 1.0
    rows = min(max(DRAWS // count, 1000), MOST_ROWS)
    uniform = np.random.default_rng(0).random((rows, count))
    uniform.sort(axis=1)
    middle = uniform[:, (count - 1) // 2], uniform[:, count // 2]
    promised = _aimed_at(count, false_alarm_rate)

    def factor(distribution: Any, rate: float) -> float:
        median = sum(distribution.ppf(each) for each in middle) / 2.0
        distance = distribution.ppf(uniform[:, -_beyond(count)]) - median

        def excess(factor: float) -> float:
            return float(distribution.sf(median + factor * distance).mean()) - rate

        most = 1.0
        while excess(most) > 0.0:
            most *= 2.0
        return brentq(excess, 0.0, most, xtol=1e-3)

    usual, heaviest = _tails()
    return max(factor(heaviest, MARGIN * promised), factor(usual, 0.5 * promised))
