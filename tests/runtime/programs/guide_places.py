"""The guide's map, and what its servers work out from it."""

import guide_pb2

PLACES = {
    (latitude, longitude): f"Place {latitude}/{longitude}"
    for latitude in range(10)
    for longitude in range(0, 10, 2)
}


def point(latitude, longitude):
    return guide_pb2.Point(latitude=latitude, longitude=longitude)


def place_at(where):
    name = PLACES.get((where.latitude, where.longitude), "")
    return guide_pb2.Place(name=name, location=where)


def places_in(box):
    for latitude, longitude in sorted(PLACES):
        if (
            box.low.latitude <= latitude <= box.high.latitude
            and box.low.longitude <= longitude <= box.high.longitude
        ):
            yield place_at(point(latitude, longitude))


class Route:
    """A route as it is recorded, point by point."""

    def __init__(self):
        self.summary = guide_pb2.Summary()
        self._last = None

    def add(self, where):
        self.summary.points += 1
        self.summary.places += bool(place_at(where).name)
        if self._last is not None:
            self.summary.distance += abs(where.latitude - self._last.latitude)
            self.summary.distance += abs(where.longitude - self._last.longitude)
        self._last = where


def key(note):
    return note.location.latitude, note.location.longitude


BOX = guide_pb2.Box(low=point(2, 1), high=point(5, 6))
ROUTE = [point(number % 7, number % 5) for number in range(100)]
NOTES = [
    guide_pb2.Note(location=point(number % 3, 0), text=f"note {number}") for number in range(9)
]


def show(place):
    where = f"{place.location.latitude}/{place.location.longitude}"
    print(f"{place.name} at {where}" if place.name else f"nothing at {where}")
