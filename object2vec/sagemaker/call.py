"""One node with the values it reads, as a rule sees it; and the rules of shape alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from object2vec.sagemaker.attributes import Attributes, Refused
from object2vec.sagemaker.symbol import Node
from object2vec.sagemaker.values import OfRecords, Tensor, Value

_Tensor = TypeVar("_Tensor", bound=Tensor)

_MAX_AXES = 4  # one more than any value of a network has
_MAX_SHOWN = 6  # inputs in a message


@dataclass(frozen=True, slots=True)
class Call:
    """A node, its attributes, and the values of its inputs."""

    node: Node
    attributes: Attributes
    values: tuple[Value, ...]

    def unfit(self) -> Refused:
        """For values that the rule does not know."""
        reads = ", ".join(str(value) for value in self.values[:_MAX_SHOWN]) or "nothing"
        if len(self.values) > _MAX_SHOWN:
            reads += f" and {len(self.values) - _MAX_SHOWN} more"
        return Refused(f"no Object2Vec network is known that applies it to: {reads}")

    def both_orders(self) -> Iterator[tuple[Value, Value]]:
        """The two values of a commutative operator, either way."""
        if len(self.values) == 2:
            first, second = self.values
            yield first, second
            yield second, first

    def only(self) -> Tensor:
        """The one value.

        Raises:
          Refused: there are more, or its axes are not known.
        """
        if len(self.values) != 1 or not isinstance(self.values[0], Tensor):
            raise self.unfit()
        return self.values[0]


def with_axes(value: _Tensor, axes: str) -> _Tensor:
    """The same values, seen along other axes.

    Raises:
      Refused: they are vectors, one for each record; the rules take those as they are.
    """
    if isinstance(value, OfRecords) and axes != value.axes:
        raise Refused(f"it changes the axes of {value}, which no Object2Vec network does")
    return dataclasses.replace(value, axes=axes)


def position(axis: int, num_axes: int) -> int:
    """An axis counted from the left, 0 or more.

    Raises:
      Refused: there is no such axis.
    """
    if not -num_axes <= axis < num_axes:
        raise Refused(f"there is no axis {axis} among {num_axes}")
    return axis % num_axes


def fits(small: Tensor, large: Tensor, broadcasts: bool) -> bool:
    """Whether `small`, broadcast if the operator does that, has the axes of `large`."""
    if not broadcasts:
        return small.axes == large.axes
    return len(small.axes) == len(large.axes) and all(
        ours in (theirs, "1") for ours, theirs in zip(small.axes, large.axes, strict=True)
    )


def over_time(call: Call) -> tuple[Tensor, str]:
    """For a reduction: what is reduced, and the axes that are left.

    Raises:
      Refused: it goes over another axis than T, or over several.
    """
    value = call.only()
    attributes = call.attributes
    attributes.must_be_flag("exclude", False)
    keeps = attributes.flag("keepdims", False)
    axes = attributes.integers("axis", ())
    if len(axes) != 1:
        raise Refused(f"it goes over axes {axes} of {value}; only T is known")
    at = position(axes[0], len(value.axes))
    if value.axes[at] != "T":
        raise Refused(f"it goes over axis {value.axes[at]} of {value}; only T is known")
    return value, value.axes[:at] + ("1" if keeps else "") + value.axes[at + 1 :]


def same(call: Call) -> Value:
    """Operators that change nothing at inference."""
    if len(call.values) != 1:
        raise call.unfit()
    return call.values[0]


def dropout(call: Call) -> Value:
    call.attributes.must_be("mode", "training")  # `always` drops at inference too
    call.attributes.may_be_anything("p", "axes", "cudnn_off")
    return same(call)


def cast(call: Call) -> Value:
    call.attributes.must_be("dtype", "float32")
    return same(call)


def swap_axes(call: Call) -> Value:
    value = call.only()
    letters = list(value.axes)
    first, second = (
        position(call.attributes.integer(name, 0), len(letters)) for name in ("dim1", "dim2")
    )
    letters[first], letters[second] = letters[second], letters[first]
    return with_axes(value, "".join(letters))


def transpose(call: Call) -> Value:
    value = call.only()
    num_axes = len(value.axes)
    order = call.attributes.integers("axes", ()) or tuple(reversed(range(num_axes)))
    places = [position(axis, num_axes) for axis in order]
    if sorted(places) != list(range(num_axes)):
        raise Refused(f"axes {order} do not name each axis of {value} once")
    return with_axes(value, "".join(value.axes[place] for place in places))


def expand_dims(call: Call) -> Value:
    value = call.only()
    if len(value.axes) == _MAX_AXES:
        raise call.unfit()
    at = position(call.attributes.integer("axis"), len(value.axes) + 1)
    return with_axes(value, value.axes[:at] + "1" + value.axes[at:])


def reshape(call: Call) -> Value:
    """Only what appends an axis of length one, or changes nothing."""
    value = call.only()
    attributes = call.attributes
    attributes.must_be_flag("reverse", False)
    attributes.may_be_anything("keep_highest")  # goes with target_shape
    target = attributes.integers("target_shape", ())
    if any(target):
        raise Refused(f"attribute target_shape is {target}; only shape is known")
    shape = attributes.integers("shape")
    num_axes = len(value.axes)
    same_shape = (0,) * num_axes  # 0 keeps a length, and one -1 follows from the others
    one_left_out = {(*same_shape[:i], -1, *same_shape[i + 1 :]) for i in range(num_axes)} | {
        same_shape
    }
    if shape in one_left_out | {(-2,)}:
        return value
    longer = {(*kept, 1) for kept in one_left_out} | {(-2, 1), (*same_shape, -1)}
    if shape in longer and num_axes < _MAX_AXES:
        return with_axes(value, value.axes + "1")
    raise Refused(f"attribute shape is {shape}, for {value}; only appending an axis is known")


def flatten(call: Call) -> Value:
    value = call.only()
    if len(value.axes) != 2:
        raise call.unfit()
    return value
