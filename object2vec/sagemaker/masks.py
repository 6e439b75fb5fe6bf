"""What each operator makes of ids, masks and counts: where the padding is, and how much."""

from __future__ import annotations

from object2vec.sagemaker.attributes import Refused
from object2vec.sagemaker.call import Call
from object2vec.sagemaker.values import (
    Count,
    Ids,
    IsEmpty,
    Mask,
    MaskLessOne,
    NotEmpty,
    Penalty,
    SafeCount,
    Value,
    Zeros,
    ZerosLike,
)


def not_equal_scalar(call: Call) -> Value:
    scalar = _scalar(call)
    match call.values:
        case (Ids(axes=axes, side=side),):
            if not scalar.is_integer():
                raise Refused(f"attribute scalar is {scalar}; a padding id is an integer")
            return Mask(axes, side, int(scalar))
        case (Count() as count,):
            _scalar_must_be(call, 0)
            return count.turned_into(NotEmpty)
    raise call.unfit()


def _scalar(call: Call) -> float:
    call.attributes.may_be_anything("is_int")  # the other operand is float32 anyway
    return call.attributes.number("scalar")


def _scalar_must_be(call: Call, value: float) -> None:
    if _scalar(call) != value:
        raise Refused(f"attribute scalar is {_scalar(call):g}; only {value:g} is known here")


def equal_scalar(call: Call) -> Value:
    match call.values:
        case (Count() as count,):
            _scalar_must_be(call, 0)
            return count.turned_into(IsEmpty)
    raise call.unfit()


def equal(call: Call) -> Value:
    for first, second in call.both_orders():
        match first, second:
            case Count() as count, ZerosLike() as zeros if zeros.axes == count.axes:
                return count.turned_into(IsEmpty)
    raise call.unfit()


def zeros_like(call: Call) -> Value:
    return ZerosLike(call.only().axes)


def zeros(call: Call) -> Value:
    if call.values:
        raise call.unfit()
    call.attributes.must_be("dtype", "float32")
    call.attributes.may_be_anything("ctx")
    return Zeros(call.attributes.integers("shape"))


def minus_scalar(call: Call) -> Value:
    match call.values:
        case (Mask() as mask,):
            _scalar_must_be(call, 1)
            return mask.turned_into(MaskLessOne)
    raise call.unfit()


def times_scalar(call: Call) -> Value:
    size = _scalar(call)
    match call.values:
        case (MaskLessOne() as mask,):
            # States lie within -1 and 1. Nothing infinite: times zero, it would be nan.
            if not 1 <= size <= 3e38:
                raise Refused(f"attribute scalar is {size:g}; it must be from 1 to 3e38")
            return mask.turned_into(Penalty)
    raise call.unfit()


def maximum_scalar(call: Call) -> Value:
    match call.values:
        case (Count() as count,):
            _scalar_must_be(call, 1)
            return count.turned_into(SafeCount)
    raise call.unfit()
