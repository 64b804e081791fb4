"""What the same time of day brought on earlier days: a bounded daily profile, believed only where it has proven itself.

A day has `SLOTS` slots. Each keeps the mean rates that arrived in it, averaged exponentially over days. What a slot will
bring is its mean, times how much more or less than usual the slot before it has brought today. The profile only ever raises
a forecast, so it is judged by what that would have done: when a slot has passed, how much of the rise above the slot before
it had come (saved), and how much had not (wasted). It counts while the last day saved clearly more than it wasted. Where
days or hours are alike, both are the same noise.

A forecast looks at a whole slot and not at a line between two of them: a ramp inside of a slot would be smeared over both, and
be seen after it has begun. Replicas come up to a slot early instead, which a day pays once.

Times are seconds on the observation's clock; a day begins wherever they are a multiple of 86,400. Nothing of this survives a
restart of the operator: it is some 300 numbers, which do not belong into a status, and a day brings them back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from inferencecluster.core.arrivals import NOTHING, Arrivals

DAY_SECONDS: Final = 86_400.0
SLOTS: Final = 96
SLOT_SECONDS: Final = DAY_SECONDS / SLOTS
"""A quarter of an hour: longer than most boots, and long enough to be a rate."""
NEWEST_WEIGHT: Final = 0.5
"""Of the latest day in a slot's mean: a change of habits counts half on its second day."""
LEAST_COVER: Final = 0.5
"""Part of a slot that must have been observed to count."""
CLEARLY_MORE: Final = 2.0
"""What is saved over what is wasted, at least: twice as sure as a coin that a raised forecast is needed."""
LEAST_RISE: Final = 1.1
"""Only a rise by a tenth and more is planned for and judged: a smaller one is as likely noise, and the reserve's to carry."""
MOST_OF_USUAL: Final = 1.25
"""A day that has brought more than usual so far is expected to go on so, up to a quarter above: noise of one slot must not
be multiplied into a peak."""
FEWEST_JUDGED: Final = SLOTS // 2
"""Slots on which the profile must have been judged: half a day."""


@dataclass(frozen=True, slots=True)
class DayProfile:
    """What `observe_demand` remembers of the times of day; bounded."""

    slots: tuple[Arrivals | None, ...]
    """Mean rates by slot; None where none was observed."""
    number: int
    """Of the slot that is being observed, counted since time 0; -1 before the first."""
    seconds: float
    requests: float
    tokens: float
    tokens_squared: float
    """What has arrived in it, within so many seconds of observation."""
    last: Arrivals | None
    """Rates of the slot before it; None where it was not observed."""
    factor: float | None
    """What the slot before it brought, over what it usually brings; None where one of both is not known."""
    verdicts: tuple[tuple[float, float] | None, ...]
    """By slot, when it was last judged: tokens per second by which the profile would have raised the level, what came of
    them (saved) and what did not (wasted)."""

    @classmethod
    def empty(cls) -> DayProfile:
        """Nothing is known of any day."""
        return cls((None,) * SLOTS, -1, 0.0, 0.0, 0.0, 0.0, None, None, (None,) * SLOTS)

    @property
    def is_trusted(self) -> bool:
        """Raising the level to it was clearly right, over half a day at least."""
        judged = [verdict for verdict in self.verdicts if verdict is not None]
        saved, wasted = (math.fsum(part) for part in zip(*judged, strict=True)) if judged else (0.0, 0.0)
        return len(judged) >= FEWEST_JUDGED and saved > CLEARLY_MORE * wasted

    def count(self, *, end: float, seconds: float, arrived: Arrivals) -> DayProfile:
        """With what `arrived` (sums, not rates) within `seconds` up to `end`."""
        number = math.floor((end - seconds / 2) / SLOT_SECONDS)
        profile = self if number == self.number else self._closed(number)
        return replace(
            profile,
            seconds=profile.seconds + seconds,
            requests=profile.requests + arrived.requests,
            tokens=profile.tokens + arrived.tokens,
            tokens_squared=profile.tokens_squared + arrived.tokens_squared,
        )

    def expected(self, time: float) -> Arrivals:
        """What the slot of `time`, at most a day from now, will bring; nothing where the profile is not trusted."""
        predicted = self._prediction(math.floor(time / SLOT_SECONDS))
        is_rise = self.last is not None and predicted.tokens >= LEAST_RISE * self.last.tokens
        return predicted if is_rise and self.is_trusted else NOTHING

    def _prediction(self, number: int) -> Arrivals:
        """For slot `number`; nothing where it, or how this day goes, is not known."""
        usual = self.slots[number % SLOTS]
        if usual is None or self.factor is None:
            return NOTHING
        return usual.scaled(self.factor, self.factor)

    def _closed(self, number: int) -> DayProfile:
        """The slot is over, and slot `number` begins."""
        begun = replace(
            self,
            number=number,
            seconds=0.0,
            requests=0.0,
            tokens=0.0,
            tokens_squared=0.0,
            last=None,
            factor=None,
        )
        if self.seconds < LEAST_COVER * SLOT_SECONDS:
            return begun
        came = Arrivals(
            self.requests / self.seconds, self.tokens / self.seconds, self.tokens_squared / self.seconds
        )
        place = self.number % SLOTS
        known = self.slots[place]
        mean = came if known is None else _blended(known, came)
        learned = replace(begun, slots=(*self.slots[:place], mean, *self.slots[place + 1 :]))
        if number == self.number + 1:
            # Only the slot right before the new one says how this day goes.
            learned = replace(learned, last=came, factor=_factor(came, known))
        return learned if known is None else self._judged(learned, came)

    def _judged(self, learned: DayProfile, came: Arrivals) -> DayProfile:
        """`learned`, with what a rise to this one's prediction saved and wasted; as it is where there was none."""
        if self.last is None or self.factor is None:
            return learned
        predicted = self._prediction(self.number).tokens
        rise = predicted - self.last.tokens if predicted >= LEAST_RISE * self.last.tokens else 0.0
        saved = min(rise, max(0.0, came.tokens - self.last.tokens))
        place = self.number % SLOTS
        verdicts = (*self.verdicts[:place], (saved, rise - saved), *self.verdicts[place + 1 :])
        return replace(learned, verdicts=verdicts)


def _factor(came: Arrivals, usual: Arrivals | None) -> float | None:
    if usual is None or usual.tokens <= 0:
        return None
    return min(came.tokens / usual.tokens, MOST_OF_USUAL)


def _blended(known: Arrivals, newest: Arrivals) -> Arrivals:
    old = 1.0 - NEWEST_WEIGHT
    return known.scaled(old, old).plus(newest.scaled(NEWEST_WEIGHT, NEWEST_WEIGHT))
