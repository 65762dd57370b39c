"""How many threads steps compute with: pure arithmetic over how long they took.

All threads of a step meet hundreds of times, so a core that another program takes holds up all of them. When
steps get slower, a few are therefore tried with a thread fewer, and what is quicker stays. While there are
fewer than to begin with, more are tried again and again, as the core may be free by now. In between, longer
and longer intervals, it is asked whether the number to begin with was the right one at all.

Steps of different sizes, and at different places of a prompt, are compared by what such steps usually take
(`codellama.engine.usual_times`). Where the system tells how much of the processors other programs leave,
nothing has to be tried to learn that a core is taken or free. And where a core is taken, long steps may get
more threads than there are cores: the system then gives this program a larger part of them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from codellama.engine.usual_times import FOLLOW, UsualTimes, median, size_of

# What steps take now is the median of so many of the latest. A step that is long, in seconds, and so far off
# the ones before speaks for itself: what they took no longer counts.
WINDOW, LONG_STEP, CLEAR = 3, 0.15, 1.5
# A trial is decided when so many of its steps agree: of fewer threads after steps got slower, of more because
# a core may be free, and of others without such a reason. Of long steps so many, or one that is so far off.
DOWN_VOTES, UP_VOTES, LOOK_VOTES, LONG_VOTES = 2, 3, 5, 3
# Steps are slow above this much of what they usually take, and twice their usual deviation more, but not more
# than that. For so many seconds it may be a burst of another program.
SLOW, MOST_NOISE, BURST = 1.15, 0.2, 0.08
# A step of a trial is good below this much of the time before it: what wins must win clearly. Threads whose
# cores other programs took must gain this part of what they could at best. Above the last the trial ends.
BETTER, GAIN, GIVE_UP = 0.96, 1 / 3, 1.1
# Seconds between two trials, doubled each time until the last: of fewer threads while steps are slow and of
# more while a core is taken; of others without a reason, with so many steps at least. Where steps are longer
# than long ones, as much more.
FIRST_PAUSE, LAST_PAUSE = 0.1, 0.8
FIRST_LOOK, LAST_LOOK, LOOK_STEPS = 0.5, 64.0, 100
# With more threads than memory feeds steps are this much slower at most, else a core is taken. Where none is,
# there is no hurry to try more.
SATURATED, LAST_SATURATED = 1.4, 32.0
# A processor of which others take more than this is taken. After a trial that lost, and before a crowd is
# asked whether fewer would do, so many long steps pass.
TAKEN, PATIENCE = 0.4, 16
# Seconds between two trials of more threads while none is known to be free, doubled each time until the last:
# a step that waits for a core may take fifty times as long. Once one is free, so long after the last time.
FIRST_BUSY, LAST_BUSY, AGAIN = 3.2, 25.6, 0.4
# A core that is taken again within so many seconds was hardly free.
LUCK = 1.0
# The most that what is usual may grow in a second: a slow time is not usual.
_GROW = 0.05


@dataclass
class _Trial:
    """Steps with `n` threads instead. Below `bar` a step is good; `votes` of them decide.

    `slow` says that steps had become slow before, `taken` that other programs take cores.
    """

    n: int
    slow: bool
    bar: float
    votes: int
    taken: bool = False
    good: int = 0
    bad: int = 0
    ratios: list[float] = field(default_factory=list)


class ThreadCount:
    """The number of threads `n` for steps of one kind, between 1 and `most`, and in words `why`.

    Before a step ask `choose`, after it tell `learn`. Without `adapts` the number stays `start`. While other
    programs take cores, long steps may have up to twice `start`.
    """

    def __init__(self, start: int, most: int, why: str, *, adapts: bool = True) -> None:
        self.n = self.home = start
        self.most = most
        self.why = self._why = why
        self._adapts = adapts and most > 1
        self._times = UsualTimes()
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._size = 0  # of the steps that the level is from
        self._level = 1.0  # what steps take now, against what is usual
        self._usual = 0.0  # level; 0 before the first steps
        self._noise = 0.05
        self._slow_for = 0.0  # seconds
        self._trial: _Trial | None = None
        self._now = 0.0  # seconds of steps so far
        self._steps = 0
        self._stride = 1
        self._down_at = self._up_at = 0.0
        self._went_up = -LUCK
        self._down_pause = self._up_pause = FIRST_PAUSE
        self._look_at, self._look_steps, self._look_pause = FIRST_LOOK, LOOK_STEPS, FIRST_LOOK
        self._looks = self._turns = 0
        self._taken = False
        self._free: float | None = None  # processors' worth of time, of late
        self._alone = False
        self._step = 0.0  # seconds that one like the latest usually takes
        self._went_for_more = -AGAIN
        self._busy_pause = FIRST_BUSY
        self._left_at = self._crowd_at = 0.0
        self._left_pause = self._crowd_pause = FIRST_LOOK

    def choose(self) -> int:
        """The number of threads for the next step."""
        return self._trial.n if self._trial else self.n

    def rested(self) -> None:
        """Nothing has been computed for a while: what was taken may be free again."""
        self._up_at, self._up_pause = self._now, FIRST_PAUSE

    def heard(self, free: float, others: float) -> None:
        """Of late other programs took `others` processors' worth of time, and left `free`, what was used here
        included."""
        before, self._free, self._alone = self._is_free, free, others < TAKEN
        if self._is_free and before is False:
            self._up_at = min(self._up_at, max(self._now, self._went_for_more + AGAIN))

    @property
    def _is_free(self) -> bool | None:
        """Whether there is a processor for one thread more, up to the number to begin with; None: unknown."""
        return None if self._free is None else self._free > min(self.n + 1, self.home) - TAKEN

    def learn(self, rows: int, seconds: float, depth: float = 0.0) -> None:
        """The step with the threads that were chosen took `seconds`, had `rows` rows, at position `depth` on
        average."""
        if not self._adapts:
            return
        self._now += seconds
        self._steps += 1
        self._times.compare(self.choose(), rows, depth, seconds)
        ratio, long = self._times.ratio(rows, depth, seconds), seconds > LONG_STEP
        if ratio is None:  # a step of a new size is taken to be as the others were
            self._times.begin(rows, depth, seconds, self._level)
            ratio = self._level
        self._step = seconds / ratio
        clear = long and not 1 / CLEAR < ratio / self._level < CLEAR
        if self._trial:
            alone = clear and size_of(rows) == self._size
            votes = LONG_VOTES if long else self._trial.votes
            self._vote(self._trial, ratio, 1 if alone else votes)
            return
        if clear:
            self._recent.clear()
        self._recent.append(ratio)
        self._size = size_of(rows)
        self._level = median(self._recent)
        if long or len(self._recent) == WINDOW:
            self._watch(rows, ratio, seconds)
            self._consider(self._level)

    def _watch(self, rows: int, ratio: float, seconds: float) -> None:
        """Follow what is usual, and how far steps are off it."""
        level = self._level
        self._usual = self._usual or level
        self._times.learn(rows, ratio / level)
        if level > self._usual * (SLOW + min(2 * self._noise, MOST_NOISE)):
            self._slow_for += seconds
        else:
            self._slow_for = 0.0
            self._noise += FOLLOW * (min(abs(ratio / self._usual - 1), 0.3) - self._noise)
        change = FOLLOW * (level - self._usual)
        self._usual += min(change, _GROW * seconds * self._usual)

    def _consider(self, level: float) -> None:
        """Begin a trial if it is time for one."""
        if self._step > LONG_STEP and self._times.seen(self._size) < 2:
            return  # what it takes at another place of a prompt is not known yet
        if self._step > LONG_STEP and self._pressed and self._now >= self._crowd_at:
            self._trial = _Trial(self._crowd(), False, BETTER * level, UP_VOTES, taken=True)
        elif self._is_slow and self.n > 1 and self._now >= self._down_at:
            n = max(1, self.n - self._stride)
            self._trial = _Trial(n, True, BETTER * level, DOWN_VOTES, taken=True)
        elif self.n >= self.home > 1 and self._is_free is False and self._now >= self._left_at:
            self._trial = _Trial(self._fewer(), False, BETTER * level, DOWN_VOTES, taken=True)
        elif self._wants_more():
            self._went_for_more = self._now
            n = min(self.home, self.n + self._stride) if self.n < self.home else self.home
            bar = (
                1 - GAIN * (1 - self.n / n) + self._noise if self._taken and n > self.n else BETTER
            )
            self._trial = _Trial(n, False, bar * level, UP_VOTES)
        elif self._now >= self._look_at and self._steps >= self._look_steps:
            self._look(level)

    @property
    def _is_slow(self) -> bool:
        """Whether steps have become slow for long enough, and not because a context grew."""
        return self._slow_for > BURST and not self._alone

    @property
    def _pressed(self) -> bool:
        """Whether other programs are known to take cores, and this has not gone beyond them yet."""
        return (
            self._is_free is False and self.n <= self.home and (self._taken or self.n == self.home)
        )

    @property
    def _scale(self) -> float:
        """How much longer pauses are than stated."""
        return max(1.0, self._step / LONG_STEP)

    def _crowd(self) -> int:
        """Two threads for each core, less one for each that another program takes.

        With a thread on every core such a program gets half of one, else a whole one."""
        free = self._free or 0.0
        return max(
            self.home + 1, int(TAKEN + (2 * free if self.n == self.home else self.home + free))
        )

    def _fewer(self) -> int:
        """As many threads as processors are left; instead of a crowd in turns the number to begin with."""
        self._turns += 1
        if self.n > self.home and self._turns % 2:
            return self.home
        return max(1, min(self.home - 1, int((self._free or 0) + TAKEN)))

    def _wants_more(self) -> bool:
        """Whether it is time to try to go back to the number to begin with, or towards it."""
        crowded = self.n > self.home and self._taken and bool(self._is_free)
        busy_until = (
            self._went_for_more + self._busy_pause * self._scale if self._is_free is False else 0.0
        )
        return (self.n < self.home or crowded) and self._now >= max(self._up_at, busy_until)

    def _look(self, level: float) -> None:
        """Try clearly more or fewer threads, in turns, without a reason to."""
        self._looks += 1
        self._look_pause = min(2 * self._look_pause, LAST_LOOK)
        self._look_at = self._now + self._look_pause
        self._look_steps = self._steps + LOOK_STEPS * 2 ** min(self._looks, 6)
        far = max(1, self.home // 4)
        fewer, more = max(1, self.n - far), min(self.most, self.n + far)
        wanted = [n for n in (fewer, more, self.most) if n != self.n]
        if wanted:
            n = wanted[self._looks % len(wanted)]
            self._trial = _Trial(n, False, BETTER * level, LOOK_VOTES)

    def _vote(self, trial: _Trial, ratio: float, votes: int) -> None:
        level = self._level
        trial.ratios.append(ratio)
        if ratio < trial.bar:
            trial.good += 1
        else:
            trial.bad += 1
        if trial.good >= votes:
            self._won(trial, level)
        elif trial.bad >= votes or (ratio > GIVE_UP * level and not trial.slow):
            self._lost(trial, ratio / level)

    def _won(self, trial: _Trial, level: float) -> None:
        self._trial = None
        down, ideal = trial.n < self.n, self._usual * self.n / trial.n
        self.n = trial.n
        self._recent = deque(trial.ratios, maxlen=WINDOW)
        self._level = median(self._recent)
        taken = trial.taken or self._taken or (down and level > SATURATED * self._level)
        self._taken = taken and (self.n < self.home or trial.taken)
        # Fewer threads take at most so much longer; if steps are above that, more cores are taken.
        self._usual = min(self._level, ideal) if trial.slow else self._level
        self._stride = self._stride * (1 if trial.taken else 2) if self.n != self.home else 1
        self._down_at, self._down_pause = self._now, FIRST_PAUSE
        self._left_pause = self._crowd_pause = FIRST_LOOK
        if self.n > self.home:
            self._left_at = self._now + PATIENCE * self._step
        lucky = down and self._now - self._went_up < LUCK
        self._up_pause = LAST_PAUSE if lucky else FIRST_PAUSE
        self._up_at = self._now + (self._up_pause if down else 0.0)
        self._busy_pause, self._went_for_more = FIRST_BUSY, self._now
        self._went_up = self._went_up if down else self._now
        self.why = self._reason()

    def _reason(self) -> str:
        if self.n == self.home:
            return self._why
        if self.n > self.home and self._taken:
            return "other programs take processors: more threads get a larger part of them"
        if self.n > self.home:
            return f"more than the {self.home} to begin with are quicker"
        if self._taken:
            return f"other programs take processors: {self.home} were slower"
        return f"fewer than the {self.home} to begin with are quicker"

    def _lost(self, trial: _Trial, loss: float) -> None:
        self._trial = None
        patience = PATIENCE * self._step if self._step > LONG_STEP else 0.0
        if trial.slow and trial.n > 1:
            # As long as more cores are taken than threads are left out nothing changes.
            self._stride *= 2
            self._down_at = self._now + patience
            return
        self._stride = 1
        if trial.slow:
            self._down_at = self._now + max(self._down_pause, patience)
            self._down_pause = min(2 * self._down_pause, LAST_PAUSE)
        elif trial.taken and trial.n > self.home:
            self._crowd_at = self._now + self._crowd_pause * self._scale
            self._crowd_pause = min(2 * self._crowd_pause, LAST_LOOK)
        elif trial.taken:
            self._left_at = self._now + self._left_pause * self._scale
            self._left_pause = min(2 * self._left_pause, LAST_LOOK)
        elif trial.n > self.n or self.n > self.home:
            hurry = self._taken or loss > SATURATED
            self._up_at = self._now + self._up_pause * self._scale
            self._up_pause = min(2 * self._up_pause, LAST_PAUSE if hurry else LAST_SATURATED)
            self._busy_pause = min(2 * self._busy_pause, LAST_BUSY)
