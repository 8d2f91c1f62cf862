"""How loops are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir
from numba.extending import intrinsic

__all__ = ["FACE_SLACK", "compiled", "prefetch"]

#: A point that lies on a field's face but for rounding is inside at the lower face and outside at the upper one. Voxels.
FACE_SLACK = 1e-10

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function when it is first called with some types, keep what came of it for other processes, and run it unlocked."""
    try:
        return cast(Function, numba.njit(nogil=True, error_model="numpy", cache=True)(function))
    except RuntimeError:  # there is no folder that can be written: each process compiles for itself
        return cast(Function, numba.njit(nogil=True, error_model="numpy")(function))


def _prefetch(_: Any, array: Any, index: Any) -> Any:
    """Fetch an element of a contiguous array with one axis, which is read soon; one that is not there does no harm."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        name = "llvm.prefetch.p0"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        # To read, to be kept near, data.
        builder.call(function, [address, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return numba.void(array, index), generate


#: ``prefetch(array, index)``, in loops.
prefetch: Any = intrinsic(_prefetch)
