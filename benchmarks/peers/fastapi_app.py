"""FastAPI with scikit-learn, the plain way: a pydantic model, a frame, the pipeline."""

from fastapi import FastAPI
from plain import answers
from pydantic import BaseModel


class Flight(BaseModel):
    """One row."""

    carrier: str
    origin: str
    dest: str
    weekday: str
    hour: float
    distance: float
    temp: float
    humid: float
    wind_speed: float
    precip: float
    pressure: float
    visib: float


class Flights(BaseModel):
    """A request."""

    rows: list[Flight]


app = FastAPI()


@app.post("/predict")
def predict(flights: Flights) -> dict:
    """Answer the rows of one request; FastAPI runs this in a thread, as it does with work that blocks."""
    return {"answers": answers([row.model_dump() for row in flights.rows])}
