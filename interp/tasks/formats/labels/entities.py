"""Names with coordinates or a date: CSV of the world-models repository.

Source: Gurnee and Tegmark 2023, "Language models represent space and time". Places have `name`,
`latitude` and `longitude` (degrees); works have `title` and `release_date`. Labels are latitude, or
the year of release; `numbers("latitude", "longitude")` gives both coordinates. Groups are the
country, the state, or the creator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from interp.tasks.formats.labels.text_tables import from_records, usable
from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.labels import Label, LabelledTexts

PLACES, WORKS = {"name", "latitude", "longitude"}, {"title", "release_date"}
GROUPS = ("country", "state_name", "creator")


def reads(file: File) -> bool:
    """Whether there are columns of places or of works."""
    names = set(file.header())
    return names >= PLACES or names >= WORKS


def read(file: File, options: Options | None = None) -> LabelledTexts:
    """The names, with everything the file says about each as columns."""
    records, options = file.records(), options or Options()
    group = next((name for name in GROUPS if name in records[0].values), None)
    if records[0].values.keys() >= PLACES:
        places = from_records(records, "name", "latitude", group, options)
        kept = usable(records, "name", "latitude", options)
        _check_coordinates(kept, "latitude", places.labels, 90)
        _check_coordinates(kept, "longitude", places.columns["longitude"], 180)
        return places
    years, options = [], replace(options, as_text=True)  # a date may be a bare year
    for record in usable(records, "title", "release_date", options):
        year = record.text("release_date")[:4]
        if not year.isdecimal():
            raise record.fault(
                "release_date", "not a date", got=record.get("release_date"), expected="YYYY-MM-DD"
            )
        years.append(int(year))
    works = from_records(records, "title", "release_date", group, options)
    columns = {"release_date": works.labels, **works.columns}
    return replace(works, labels=tuple(years), target="year", columns=columns)


def _check_coordinates(records: Sequence[Record], field: str, values: Sequence[Label], limit: int) -> None:
    """Every value is a number of degrees; a column that is not numbers has come as text."""
    for record, value in zip(records, values, strict=True):
        number = record.number(field) if isinstance(value, str) else value
        if abs(number) > limit:
            raise record.fault(field, "not a coordinate", got=value, expected=f"-{limit} to {limit}")


FORMAT = Format("places and works", "CSV with coordinates or release dates", reads, read)
