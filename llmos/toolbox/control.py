"""The controller of a standing goal: how long the protected waited in, how much the others may use out. Pure.

    share    what they may use of what is bounded, 1 for all of it: down by a fifth while the protected waits
             too long, up by a tenth of the whole while it does not (AIMD, as TCP does: it converges and finds
             out what is free)
    weight   how they stand where others want to run as well (usual is 100): costs them nothing of what is
             left over, so it is the first step, and taken as soon as both sides are at work; doubled again
             where they get next to nothing, because third programs fill the machine

Their share goes down only while they use more than half of what the protected leaves over: below that
somebody else is why it waits, and holding them back further would cost much and help nobody.

Between the two bounds nothing changes (hysteresis), steps are bounded, `share` never falls below its floor
(nobody starves), and when the protected has been idle for a while everything is given back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FLOOR = 0.1  # of all CPUs: enough to go on, seen as slow and not as hung
DOWN, UP = 0.8, 0.1
# Waiting a seventh of the time it wanted to run makes the protected 1.17 times as slow; the aim is 1.3.
TOO_LONG, SHORT = 0.15, 0.07
FAIR = 0.5  # of what is left over
HOT_TICKS, CALM_TICKS = 2, 5  # looks in a row before a step down, or up: down is urgent
IDLE_TICKS = 15
USUAL, LAST, HIGHEST = 100, 10, 80  # weights: a tenth of the usual one makes whoever wakes up come first
STARVED = 0.05  # of all CPUs, while they want more


@dataclass(frozen=True, slots=True)
class Reading:
    """One look. `waited` is the share of the time it wanted to run in which the protected waited: 0 to 1.

    `protected_use` and `others_use` are shares of all CPUs.
    """

    waited: float
    protected_active: bool
    others_active: bool
    protected_use: float = 0.0
    others_use: float = 1.0

    @property
    def is_their_fault(self) -> bool:
        return self.others_use > FAIR * (1 - min(1.0, self.protected_use))


@dataclass(frozen=True, slots=True)
class State:
    share: float = 1.0
    weight: int = USUAL
    starved: int = 0
    hot: int = 0
    calm: int = 0
    idle: int = 0

    @property
    def behind(self) -> bool:
        return self.weight < USUAL

    @property
    def restrains(self) -> bool:
        return self.behind or self.share < 1.0


def step(state: State, reading: Reading) -> State:
    """What holds after this look."""
    if not (reading.protected_active and reading.others_active):
        idle = min(state.idle + 1, IDLE_TICKS)
        return State(idle=idle) if idle == IDLE_TICKS else replace(state, idle=idle, hot=0, calm=0, starved=0)
    hot = state.hot + 1 if reading.waited > TOO_LONG and reading.is_their_fault else 0
    calm = state.calm + 1 if reading.waited < SHORT or not reading.is_their_fault else 0
    starved = state.starved + 1 if reading.others_use < STARVED else 0
    now = replace(state, hot=min(hot, HOT_TICKS), calm=min(calm, CALM_TICKS),
                  starved=min(starved, HOT_TICKS), idle=0)  # fmt: skip
    if not state.behind:
        return replace(now, weight=LAST, hot=0, calm=0, starved=0)
    if now.starved >= HOT_TICKS:
        more = min(1.0, state.share + UP)
        return replace(now, weight=min(HIGHEST, state.weight * 2), share=more, starved=0)
    return _tighter(now) if now.hot >= HOT_TICKS else _wider(now)


def _tighter(now: State) -> State:
    """The weight first: the share bounds them also where nobody else wants to run."""
    if now.weight > LAST:
        return replace(now, weight=max(LAST, now.weight // 2), hot=0)
    return replace(now, share=max(FLOOR, now.share * DOWN), hot=0)


def _wider(now: State) -> State:
    if now.calm >= CALM_TICKS and now.share < 1.0:
        return replace(now, share=min(1.0, now.share + UP), calm=0)
    return now
