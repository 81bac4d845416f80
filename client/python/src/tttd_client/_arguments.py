"""Arguments of calls on their way into messages: what does not fit is named."""

from __future__ import annotations

import datetime
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, Optional, Union

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Ttl = Union[datetime.timedelta, float, None]

# What protobuf, datetime and conversions raise of a value that does not fit.
MISFITS = (TypeError, ValueError, OverflowError)

# What a field takes, by its type. None of ours takes less than 0.
_RULES: Mapping[int, str] = {
    FieldDescriptor.CPPTYPE_INT32: f"an integer from 0 to {2**31 - 1}",
    FieldDescriptor.CPPTYPE_UINT64: f"an integer from 0 to {2**64 - 1}",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_BOOL: "True or False",
    FieldDescriptor.CPPTYPE_STRING: "a str of valid Unicode",
}


def refused(kind: type[Exception], name: str, value: object, rule: str) -> Exception:
    """A TypeError if that is the kind, a ValueError otherwise. Long values are cut short."""
    error = TypeError if issubclass(kind, TypeError) else ValueError
    return error(f"{name} is {reprlib.repr(value)}: must be {rule}")


def _rule(message: Message, field: str) -> str:
    return _RULES[message.DESCRIPTOR.fields_by_name[field].cpp_type]


def put(
    message: Message, field: str, value: object, name: str = "", *, required: bool = False
) -> None:
    """Sets the field; None leaves it unset, unless it is required.

    TypeError, ValueError: the value does not fit. `name` is the argument's, if it is
    not the field's.
    """
    if value is None and not required:
        return
    try:
        setattr(message, field, value)
    except MISFITS as error:
        raise refused(type(error), name or field, value, _rule(message, field)) from error


def put_all(message: Message, field: str, values: Iterable[Any], name: str, rule: str) -> None:
    """Appends to the field. TypeError, ValueError: a value does not fit.

    `rule` is of the values together, which are no str and no bytes.
    """
    if isinstance(values, (str, bytes, bytearray, memoryview)):
        raise refused(TypeError, name, values, rule)
    try:
        items = iter(values)
    except TypeError as error:
        raise refused(TypeError, name, values, rule) from error
    element_rule = _rule(message, field)
    repeated = getattr(message, field)
    for place, value in enumerate(items):
        try:
            repeated.append(value)
        except MISFITS as error:
            raise refused(type(error), f"{name}[{place}]", value, element_rule) from error


def put_ttl(message: Any, ttl: Ttl) -> None:
    """Sets `ttl`; None leaves it unset. TypeError, ValueError: no such span of time."""
    if ttl is None:
        return
    try:
        span = ttl if isinstance(ttl, datetime.timedelta) else datetime.timedelta(seconds=ttl)
        message.ttl.FromTimedelta(span)
    except MISFITS as error:
        rule = "a number of seconds, or a timedelta, of at most 999,999,999 days"
        raise refused(type(error), "ttl", ttl, rule) from error


def not_negative(name: str, value: float, rule: str = "a number of seconds, 0 or more") -> float:
    """The value. TypeError, ValueError: not a number, or below 0."""
    try:
        is_valid = value >= 0
        number = float(value)
    except MISFITS as error:
        raise refused(type(error), name, value, rule) from error
    if not is_valid:
        raise refused(ValueError, name, value, rule)
    return number


def checked_timeout(timeout: Optional[float]) -> Optional[float]:
    """The timeout; None: there is none. TypeError, ValueError: no number, or below 0."""
    return None if timeout is None else not_negative("timeout", timeout)
