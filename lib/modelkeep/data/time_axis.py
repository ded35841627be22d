"""Which times belong to the time axis: an odd one (year 1, 1900, 9999) must not stretch windows and
pages.
"""

import numpy as np
import pandas as pd

YEARS = np.timedelta64(3653, "D")  # a time so far from the bulk of the table is an error
AHEAD = np.timedelta64(366, "D")  # a logged row may lie so far after its prediction
EARLIEST = "1970-01-02"  # for bundles of before, which keep no limits

Limits = tuple[np.datetime64, np.datetime64]


def limits(times: pd.Series) -> Limits | None:
    """The first and the last time (datetime64[us]) that belong to the axis of `times`; None without
    times.

    From the 10 % and 90 % quantiles outwards by ten years, or by three times their distance where
    that is more: up to a tenth of the rows may be wrong on either side.
    """
    known = np.sort(times.dropna().to_numpy().astype("datetime64[us]"))
    if not len(known):
        return None
    low, high = known[[len(known) // 10, (9 * (len(known) - 1)) // 10]]
    margin = max(YEARS, 3 * (high - low))
    return max(low - margin, _floor()), min(high + margin, _ceiling())


def parsed(stated: tuple[str, str] | None) -> Limits | None:
    """The limits that a schema states."""
    return stated and tuple(np.datetime64(each, "us") for each in stated)


def of_log(stated: tuple[str, str] | None, oldest: np.datetime64, newest: np.datetime64) -> Limits:
    """The limits for rows of a prediction log: those of training, widened by the server's clock.

    `oldest` and `newest` are its first and last prediction; a row may lie a year after the newest.
    """
    low, high = map(np.datetime64, stated) if stated else (np.datetime64(EARLIEST), newest)
    low, high = min(low, oldest), max(high, newest + AHEAD)
    return low.astype("datetime64[us]"), high.astype("datetime64[us]")


def outside(times: pd.Series, axis: Limits) -> np.ndarray:
    """Which times are off the axis; a missing one is not."""
    return ((times < axis[0]) | (times > axis[1])).to_numpy()


def placed(times: pd.Series, axis: Limits | None) -> np.ndarray:
    """A usable time for each row: an unreadable or odd one counts as that of the row before it in
    the file.

    So every row of a table has one place in time, and none falls out of every period.
    """
    if axis is not None:
        times = times.mask(outside(times, axis))
    return times.ffill().bfill().to_numpy()


def _floor() -> np.datetime64:
    return np.datetime64("0001-01-02", "us")


def _ceiling() -> np.datetime64:
    return np.datetime64("9998-12-31", "us")
