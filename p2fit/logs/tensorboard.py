"""TensorBoard's event files, read into columns."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from p2fit import extras
from p2fit.curves.reading import read_bytes
from p2fit.errors import FitError
from p2fit.logs.log import Log, Records, broken


def tensorboard(source: Path, files: Iterable[Path]) -> Log:
    """The scalars of event files; what was logged at one step in a row is one record."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError:
        raise FitError(
            f"{source}: TensorBoard event files need tensorboard: {extras.command('tensorboard')}"
        ) from None
    from google.protobuf.message import DecodeError

    events: list[Any] = []
    notes: list[str] = []
    for file in files:
        name, data = read_bytes(file)
        if not data:
            raise broken(name, "the file is empty")
        try:
            for record in _tfrecords(name, data, masked_crc32c, notes):
                events.append(Event.FromString(record))
        except (DecodeError, struct.error):
            raise broken(name, "not a TensorBoard event file, or damaged") from None
    records, at = Records(), None
    now: dict[str, float] = {}
    for event in sorted(events, key=lambda event: event.wall_time):  # one file per start
        for value in event.summary.value:
            if value.HasField("simple_value"):
                number = value.simple_value
            elif value.HasField("tensor") and not value.tensor.tensor_shape.dim:
                try:
                    number = float(make_ndarray(value.tensor))
                except (TypeError, ValueError):  # text
                    continue
            else:
                continue
            if at != event.step or value.tag in now:
                if now:
                    records.add(now)
                now, at = {"step": event.step}, event.step
            now[value.tag] = number
    if now:
        records.add(now)
    if not records.height:
        raise broken(str(source), "no scalars in the event files")
    columns = records.columns()
    return Log(str(source), "TensorBoard", columns, records.height, in_time=True, notes=notes)


def _tfrecords(
    source: str, data: bytes, checksum: Callable[[bytes], int], notes: list[str]
) -> Iterator[bytes]:
    """The records of a file; one that its writer had not finished is noted and left out.

    A record is its length (uint64), a check sum of that, the data, and a check sum of them.

    Raises:
        struct.error: a check sum that does not hold.
    """
    start = 0
    while (body := start + 12) <= len(data):
        length, check = struct.unpack_from("<QI", data, start)
        if check != checksum(data[start : start + 8]):
            raise struct.error
        end = body + length
        if end + 4 > len(data):
            break
        record = data[body:end]
        if struct.unpack_from("<I", data, end) != (checksum(record),):
            raise struct.error
        yield record
        start = end + 4
    if start < len(data):
        notes.append(f"{source} ends in the middle of a record, which is left out")
