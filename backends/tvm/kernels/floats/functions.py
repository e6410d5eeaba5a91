"""Functions of float32 vectors without a call of a library: exponentials, logarithms and the like.

The polynomials interpolate at Chebyshev nodes. Tests measure every function against float64, over
all exponents: the relative error is at most `MOST_ERROR` where the result is a normal number.
Shares (of sigmoid, and those that SiLU and GELU multiply with) that are no normal numbers are zero.
NaN gives NaN, and infinities give the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import factorial, log, pi

import numpy as np
from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import bind, cast, float32, float64, integer, reinterpret, splat

MOST_ERROR = 1e-5
"""The largest relative error of these functions, in units of the result."""

_ROUNDING = 0x4B400000
"""The bits of 1.5 * 2**23: what is added to it is rounded to an integer, in its lowest bits."""
_MANTISSA, _BIAS, _ONE = 23, 127, 0x3F800000
_LN2_HIGH = float(np.uint32(0x3F317000).view(np.float32))
"""The first 12 bits of ln(2): times a small integer this is exact."""
_LN2_LOW = log(2) - _LN2_HIGH

_EXPM1 = (
    0.5,
    0.16666573381900845,
    0.04166655011030512,
    0.008363773874405574,
    0.0013926926614021907,
)
"""(exp(r) - 1 - r) / r**2 for |r| <= ln(2) / 2."""
_ERF = (
    1.1283791658483509,
    -0.37612626666720334,
    0.11283594715160218,
    -0.026854212010626412,
    0.005189087423433974,
    -0.000801686428716587,
    7.875875062685488e-05,
)
"""erf(x) / x for 0 <= x**2 <= 1, in x**2."""
_ERFC_SLOPE = 0.4
_ERFC = (
    -1.4887943696405388,
    1.0031765809674191,
    0.38884500606094596,
    0.34438362248141935,
    -0.5491965145551979,
    1.1549862744418502,
    -1.6240047156185544,
    0.9920479247537455,
    -0.22144395603524775,
)
"""ln(erfc(x) * exp(x**2) / t) for 0 <= x < 10.5, in t = 1 / (1 + 0.4 x)."""
_LAST_SHARE = 6.5
LEAST_SHARE = 3e-10
"""`_LAST_SHARE` times the share of a normal distribution that lies so many deviations below 0."""
_LOG_SHARE = (
    -0.6931447336117016,
    -0.7979603469521217,
    0.18208759771905908,
    -0.037165523977112085,
    0.005685328953863667,
    -0.0005403849283765974,
    1.2761779996323652e-05,
    3.6713254075980284e-06,
    -4.3680840227661203e-07,
    1.598635713173854e-08,
)
"""ln(share) + x**2 / 2 for the share of a normal distribution below -x, 0 <= x <= 6.5."""
_LOG1P = (
    0.3333341539881283,
    -0.2500070255066407,
    0.19984223247211969,
    -0.1660271885341484,
    0.14703899166838272,
    -0.14030892195077704,
    0.09048784419252598,
)
"""(ln(1 + r) - r + r**2 / 2) / r**3 for 1 + r between the roots of 1/2 and of 2."""
MOST_ANGLE = 65536.0
"""The largest angle whose sine and cosine are found here."""
_QUARTER_HIGH = float((np.array(pi / 2).view(np.int64) & ~0x1FFFFF).view(np.float64))
"""The first 32 bits of pi / 2: times the number of quarter turns in an angle this is exact."""
_QUARTER_LOW = pi / 2 - _QUARTER_HIGH + 6.123233995736766e-17
_SINE = tuple((-1) ** n / factorial(2 * n + 1) for n in range(5))
"""sin(r) / r for |r| <= 0.8, in r**2."""
_COSINE = tuple((-1) ** n / factorial(2 * n) for n in range(6))
"""cos(r) for |r| <= 0.8, in r**2."""
_ROOT_OF_HALF = 0x3F3504F3
"""Its bits."""
_NEAR = 0.25
"""Up to this, `_LOG1P` has 1 + x in its range, and x all digits that the sum would lose."""

_GREATEST_EXPONENT = 89.0  # its exponential is infinite
_LEAST_EXPONENT = -104.0  # its exponential is zero
_LEAST_NORMAL = -87.68  # exponentials of less are flushed to zero by `exp_negative`
_TANH_IS_ONE = 9.1
_MISH_IS_X = 20.0

Bind = Callable[[Expr], Expr]


@dataclass(frozen=True)
class Functions:
    """Functions of vectors of `lanes` float32; `bind` gives a name to what is used twice."""

    lanes: int
    bind: Bind = bind

    def number(self, value: float) -> Expr:
        """A constant in every lane."""
        # TVM has no bits of a zero. It is compared with only: x + 0 and x * 0 are not all zeros.
        return (
            float32(value, self.lanes) if value else splat(T.FloatImm("float32", 0.0), self.lanes)
        )

    def exp(self, x: Expr) -> Expr:
        """`e ** x`; zero below the smallest number, which needs two factors on the way."""
        grown, power = self._grown(self._between(_LEAST_EXPONENT, x, _GREATEST_EXPONENT))
        half = self.bind(T.shift_right(power, self._int(1)))
        scaled = (grown + self.number(1.0)) * self._power(half)
        return scaled * self._power(power - half)

    def exp_negative(self, x: Expr) -> Expr:
        """`e ** x` for x up to 0, zero where that would be no normal number: what softmax needs."""
        grown, power = self._grown(T.max(self.number(_LEAST_NORMAL - 0.5), x))
        return (grown + self.number(1.0)) * self._power(power)

    def expm1(self, x: Expr) -> Expr:
        """`e ** x - 1`, with all digits near 0."""
        grown, power = self._grown(self._between(_LEAST_NORMAL, x, _GREATEST_EXPONENT))
        half = self.bind(T.shift_right(power, self._int(1)))
        rest = self.bind(power - half)
        first, second = self.bind(self._power(half)), self._power(rest)
        return (grown * first + (first - self._power(self._int(0) - rest))) * second

    def _expm1_of_few(self, x: Expr) -> Expr:
        """`e ** x - 1` for x of at most some dozens, where one factor does."""
        grown, power = self._grown(x)
        scale = self.bind(self._power(power))
        return grown * scale + (scale - self.number(1.0))

    def sigmoid(self, x: Expr) -> Expr:
        """`1 / (1 + e ** -x)`."""
        tail = self.bind(self.exp_negative(self._bits(T.bitwise_or, x, -(2**31))))
        one = self.number(1.0)
        return T.Select(x < self.number(0.0), tail, one) / (one + tail)

    def silu(self, x: Expr) -> Expr:
        """`x * sigmoid(x)`."""
        return x * self.sigmoid(x)

    def tanh(self, x: Expr) -> Expr:
        """`(e ** 2x - 1) / (e ** 2x + 1)`."""
        size = self.bind(self._magnitude(x))
        grown = self.bind(self._expm1_of_few(T.min(self.number(2 * _TANH_IS_ONE), size + size)))
        return self._with_sign(grown / (grown + self.number(2.0)), x)

    def erf(self, x: Expr) -> Expr:
        """The error function."""
        size = self.bind(self._magnitude(x))
        square = self.bind(size * size)
        near = size * self._polynomial(_ERF, square)
        far = self.number(1.0) - self._erfc(size, square)
        return self._with_sign(T.Select(size < self.number(1.0), near, far), x)

    def gelu(self, x: Expr) -> Expr:
        """`x` times the share of a normal distribution below it, with the digits of small shares.

        Results beyond `LEAST_SHARE` are within that: about zero, as PyTorch's are. Minus infinity
        times no share is NaN, as in PyTorch.
        """
        size = T.min(self.number(_LAST_SHARE), self._magnitude(x))
        exponent = self._polynomial(_LOG_SHARE, size) - x * x * self.number(0.5)
        tail = self.bind(self.exp_negative(exponent))
        share = T.Select(x < self.number(0.0), tail, self.number(1.0) - tail)
        return x * share

    def gelu_tanh(self, x: Expr) -> Expr:
        """The approximation of `gelu` by a hyperbolic tangent, which is that of a sigmoid."""
        # Each rounding counts: where the share is small, the argument is some dozens.
        factor = 2 * (2 / pi) ** 0.5
        rising = self.number(factor) + x * x * self.number(factor * 0.044715)
        return x * self.sigmoid(self.bind(x * rising))

    def log(self, x: Expr) -> Expr:
        """The natural logarithm; NaN of negative numbers."""
        power, rest = self._root_and_rest(x)
        return self._logarithm(x, power, rest)

    def log1p(self, x: Expr) -> Expr:
        """`log(1 + x)`, with all digits near 0."""
        raised = self.bind(x + self.number(1.0))
        power, rest = self._root_and_rest(raised)
        is_near = self._magnitude(x) < self.number(_NEAR)
        power = T.Select(is_near, self.number(0.0), power)
        return self._logarithm(raised, self.bind(power), self.bind(T.Select(is_near, x, rest)))

    def softplus(self, x: Expr, beta: float, threshold: float) -> Expr:
        """`log(1 + e ** (beta * x)) / beta`; x itself above the threshold."""
        t = self.bind(x * self.number(beta))
        tail = self.bind(self.exp_negative(self._bits(T.bitwise_or, t, -(2**31))))
        made = (T.max(self.number(0.0), t) + self.log1p(tail)) / self.number(beta)
        return T.Select(t > self.number(threshold), x, made)

    def mish(self, x: Expr) -> Expr:
        """`x * tanh(log(1 + e ** x))`."""
        grown = self.bind(self.exp(T.min(self.number(_MISH_IS_X), x)))
        two = self.number(2.0)
        part = self.bind(grown * (grown + two))
        return x * (part / (part + two))

    def elu(self, x: Expr, positive: float, negative: float, slope: float) -> Expr:
        """`positive * x` above 0, `negative * (e ** (slope * x) - 1)` below."""
        below = self.number(negative) * self.expm1(x * self.number(slope))
        return T.Select(x > self.number(0.0), x * self.number(positive), below)

    def sin(self, x: Expr) -> Expr:
        """The sine of an angle up to `MOST_ANGLE`."""
        return self._wave(*self._quarters(x))

    def cos(self, x: Expr) -> Expr:
        """The cosine of an angle up to `MOST_ANGLE`: a sine, a quarter of a turn later."""
        quarters, rest = self._quarters(x)
        return self._wave(self.bind(quarters + self._int(1)), rest)

    # --- parts ------------------------------------------------------------------------------------

    def _grown(self, x: Expr) -> tuple[Expr, Expr]:
        """`e ** r - 1` and n, where x is n ln(2) + r."""
        x = self.bind(x)
        shifted = x * self.number(1 / log(2)) + self.number_of(_ROUNDING)
        power = self.bind(reinterpret(shifted, "int32", self.lanes) - self._int(_ROUNDING))
        whole = self.bind(cast(power, "float32", self.lanes))
        rest = x - whole * self.number(_LN2_HIGH)
        rest = self.bind(rest - whole * self.number(_LN2_LOW))
        return self.bind(self._polynomial(_EXPM1, rest) * (rest * rest) + rest), power

    def _quarters(self, x: Expr) -> tuple[Expr, Expr]:
        """Two numbers n and r, where an angle is n quarters of a turn and r, about pi / 4 or less.

        The rest of angles near whole quarters is small, and float64 leaves it all of its digits.
        """
        x = self.bind(x)
        shifted = x * self.number(2 / pi) + self.number_of(_ROUNDING)
        quarters = self.bind(reinterpret(shifted, "int32", self.lanes) - self._int(_ROUNDING))
        whole = self.bind(cast(quarters, "float64", self.lanes))
        rest = cast(x, "float64", self.lanes) - whole * float64(_QUARTER_HIGH, self.lanes)
        rest = rest - whole * float64(_QUARTER_LOW, self.lanes)
        return quarters, self.bind(cast(rest, "float32", self.lanes))

    def _wave(self, quarters: Expr, rest: Expr) -> Expr:
        """The sine of so many quarters of a turn and a rest."""
        square = self.bind(rest * rest)
        is_odd = T.EQ(T.bitwise_and(quarters, self._int(1)), self._int(1))
        sine = rest * self._polynomial(_SINE, square)
        size = T.Select(is_odd, self._polynomial(_COSINE, square), sine)
        sign = T.shift_left(T.bitwise_and(quarters, self._int(2)), self._int(30))
        turned = T.bitwise_xor(reinterpret(size, "int32", self.lanes), sign)
        return reinterpret(turned, "float32", self.lanes)

    def is_beyond(self, x: Expr, most: float) -> Expr:
        """Where the magnitude of x is larger."""
        return self._magnitude(x) > self.number(most)

    def _root_and_rest(self, x: Expr) -> tuple[Expr, Expr]:
        """Two numbers n and r, where a positive x is `2 ** n * (1 + r)`, with 1 + r around 1."""
        is_tiny = x < self.number(2.0**-126)
        scaled = T.Select(is_tiny, x * self.number(2.0**_MANTISSA), x)
        lifted = reinterpret(scaled, "int32", self.lanes) + self._int(_ONE - _ROOT_OF_HALF)
        lifted = self.bind(lifted)
        power = T.shift_right(lifted, self._int(_MANTISSA)) - self._int(_BIAS)
        power = power - T.Select(is_tiny, self._int(_MANTISSA), self._int(0))
        bits = T.bitwise_and(lifted, self._int(2**_MANTISSA - 1)) + self._int(_ROOT_OF_HALF)
        rest = self.bind(reinterpret(bits, "float32", self.lanes) - self.number(1.0))
        return self.bind(cast(power, "float32", self.lanes)), rest

    def _logarithm(self, x: Expr, power: Expr, rest: Expr) -> Expr:
        """The logarithm of x, which is `2 ** power * (1 + rest)` if it is a positive number."""
        square = self.bind(rest * rest)
        made = self._polynomial(_LOG1P, rest) * (square * rest) - square * self.number(0.5)
        made = made + power * self.number(_LN2_LOW) + rest + power * self.number(_LN2_HIGH)
        nothing, infinite = self.number(0.0), self.number(np.inf)
        of_none = T.Select(T.EQ(x, nothing), self.number(-np.inf), self.number(np.nan))
        return T.Select(x > nothing, T.Select(x < infinite, made, x), of_none)

    def _erfc(self, size: Expr, square: Expr) -> Expr:
        """1 - erf of values from 0 on, and their squares."""
        one = self.number(1.0)
        t = self.bind(one / (one + self.number(_ERFC_SLOPE) * size))
        return t * self.exp_negative(self._polynomial(_ERFC, t) - square)

    def _polynomial(self, coefficients: Sequence[float], x: Expr) -> Expr:
        x = self.bind(x)
        *lower, total = map(self.number, coefficients)
        for coefficient in reversed(lower):
            total = total * x + coefficient
        return total

    def _power(self, exponent: Expr) -> Expr:
        """2 to an integer, of which it takes only those of normal numbers, and 0 for -127."""
        bits = T.shift_left(exponent + self._int(_BIAS), self._int(_MANTISSA))
        return reinterpret(bits, "float32", self.lanes)

    def _between(self, low: float, x: Expr, high: float) -> Expr:
        """`x` within bounds; the bound comes first, so that NaN stays."""
        return T.min(self.number(high), T.max(self.number(low), x))

    def number_of(self, bits: int) -> Expr:
        """A constant by its bits, in every lane."""
        return self.number(float(np.int32(bits).view(np.float32)))

    def _magnitude(self, x: Expr) -> Expr:
        return self._bits(T.bitwise_and, x, 2**31 - 1)

    def _with_sign(self, size: Expr, x: Expr) -> Expr:
        sign = T.bitwise_and(reinterpret(x, "int32", self.lanes), self._int(-(2**31)))
        joined = T.bitwise_or(reinterpret(size, "int32", self.lanes), sign)
        return reinterpret(joined, "float32", self.lanes)

    def _bits(self, operation: Callable[[Expr, Expr], Expr], x: Expr, mask: int) -> Expr:
        bits = operation(reinterpret(x, "int32", self.lanes), self._int(mask))
        return reinterpret(bits, "float32", self.lanes)

    def _int(self, value: int) -> Expr:
        return integer(value, "int32", self.lanes)
