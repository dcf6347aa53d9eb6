"""The types that numbers have in tensors, one row each: all that kernels, weights and generated C
need to know of one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Element:
    """A type of number."""

    name: str  # in numpy, torch and TVM
    bytes: int
    c_type: str
    dlpack_code: int  # 0 signed, 1 unsigned, 2 floating point, 6 boolean

    def literal(self, value: float) -> str:
        """A number of this type, as TVMScript."""
        return f"T.{self.name}({value!r})"

    @property
    def lowest(self) -> str:
        """The least finite number of a floating-point type, as TVMScript."""
        import numpy as np  # not for whoever only lists targets

        least = repr(float(np.finfo(self.name).min)).replace("e+", "e")
        return f"T.{self.name}({least})"

    @property
    def unit(self) -> float:
        """The unit roundoff u of a floating-point type: a rounded result is off by a factor of
        1 + u at most (Higham 2002, section 2.1)."""
        import numpy as np

        return float(np.finfo(self.name).eps) / 2


FLOAT32 = Element("float32", 4, "float", 2)
FLOAT64 = Element("float64", 8, "double", 2)
FLOAT16 = Element("float16", 2, "uint16_t", 2)
INT64 = Element("int64", 8, "int64_t", 0)
INT32 = Element("int32", 4, "int32_t", 0)
INT8 = Element("int8", 1, "int8_t", 0)
UINT8 = Element("uint8", 1, "uint8_t", 1)
BOOL = Element("bool", 1, "uint8_t", 6)

ELEMENTS = {
    element.name: element
    for element in (FLOAT32, FLOAT64, FLOAT16, INT64, INT32, INT8, UINT8, BOOL)
}
