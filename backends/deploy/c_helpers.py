"""What stands in files of C beside kernels and constants: their head, and small functions."""

from __future__ import annotations

import re

from qpc.backends.deploy.c_mve import MVE_HELPERS

HEAD = """/* @name@: a neural network as C99, made by QPC @version@. See @name@.h.
 *
 * Kernels take addresses of inputs, constants and outputs; channels of tensors come last. It relies
 * on what GCC, Clang and their kin say of integers: conversions wrap around, and shifts of negative
 * numbers keep the sign. */
#include "@name@.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "compile without -ffast-math: results could differ"
#endif
/* 16 says that half floats are computed as such, and floats as floats. */
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "floats must be computed as floats, for instance by -mfpmath=sse: results could differ"
#endif
"""


def _requantize_to(name: str, cut: str, least: int, greatest: int) -> str:
    """A function whose outputs may be all that a type of bytes holds. cut: to its eight bits."""
    head = f"static inline {name} requantize_to_{name.removesuffix('_t')}("
    return f"""/* A sum times a factor, rounded half to even, moved, cut to a byte. */
{head}int32_t sum, float factor, int32_t zero_point)
{{
    float product = (float)sum * factor;
    int32_t value;
#if defined(__ARM_FEATURE_SIMD32) && defined(__GNUC__) && defined(__ARM_FP) && (__ARM_FP & 4)
    __asm__("vcvtr.s32.f32 %0, %1" : "=t"(value) : "t"(product));
    __asm__("qadd %0, %1, %2" : "=r"(value) : "r"(value), "r"(zero_point));
    __asm__("{cut} %0, #8, %1" : "=r"(value) : "r"(value));
#else
    float lowest = (float)({least} - zero_point), highest = (float)({greatest} - zero_point);
    product = product > lowest ? product : lowest;
    product = product < highest ? product : highest;
    value = (int32_t)rintf(product) + zero_point;
#endif
    return ({name})value;
}}
"""


HELPERS: dict[str, str] = {
    "as_float": """/* The bits of an integer as a float. */
static float as_float(int32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
""",
    "as_integer": """/* The bits of a float as an integer. */
static int32_t as_integer(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
""",
}
HELPERS |= {
    "ROLLED": """/* Before loops that GCC is not to unroll: their vectors fill the registers. */
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 8
#define ROLLED _Pragma("GCC unroll 1")
#else
#define ROLLED
#endif
""",
    "requantize_to_uint8": _requantize_to("uint8_t", "usat", 0, 255),
    "requantize_to_int8": _requantize_to("int8_t", "ssat", -128, 127),
    "load_word": """/* Four bytes of memory, the first of which is the lowest. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "this file is for machines whose words begin with the lowest byte"
#endif
static int32_t load_word(const void *address)
{
    int32_t word;
    memcpy(&word, address, sizeof word);
    return word;
}
""",
    "load_two_words": """/* Eight bytes of memory, the first of which is the lowest. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "this file is for machines whose words begin with the lowest byte"
#endif
static int64_t load_two_words(const void *address)
{
    int64_t words;
    memcpy(&words, address, sizeof words);
    return words;
}
""",
    "signed_pair": """/* Signed bytes 0 and 2 of a word, or 1 and 3, as two numbers of 16 bits. */
static int32_t signed_pair(int32_t word, int odd)
{
#if defined(__ARM_FEATURE_SIMD32) && defined(__GNUC__)
    int32_t pair;
    if (odd)
        __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    else
        __asm__("sxtb16 %0, %1" : "=r"(pair) : "r"(word));
    return pair;
#else
    uint32_t bytes = (uint32_t)(odd ? word >> 8 : word) & 0x00ff00ffu;
    return (int32_t)(bytes | (bytes & 0x00800080u) * 0x1feu);
#endif
}
""",
    "add_products": """/* A sum, and the products of the two pairs of numbers. */
static int32_t add_products(int32_t a, int32_t b, int32_t sum)
{
#if defined(__ARM_FEATURE_SIMD32) && defined(__GNUC__)
    int32_t total;
    __asm__("smlad %0, %1, %2, %3" : "=r"(total) : "r"(a), "r"(b), "r"(sum));
    return total;
#else
    int32_t low = (int16_t)(a & 0xffff) * (int16_t)(b & 0xffff);
    int32_t high = (int16_t)(a >> 16) * (int16_t)(b >> 16);
    return (int32_t)((uint32_t)sum + (uint32_t)low + (uint32_t)high);
#endif
}
""",
    "requantize": """/* A sum times a factor, rounded half to even, moved, within bounds.
 *
 * As floats give it: a sum below 2^24 is a float as it is, and the product, if it is below 512, is
 * rounded by 2^-15 at most before it is rounded to an integer. Integers give the same unless it
 * lies nearer to the middle of two integers than that; then floats decide, as they do where the
 * factor is too large or small for the shifts. */
static int32_t requantize(int32_t sum, float factor, int32_t zero_point, int32_t lo, int32_t hi)
{
    uint32_t bits = (uint32_t)as_integer(factor);
    uint32_t size = sum < 0 ? 0u - (uint32_t)sum : (uint32_t)sum;
    uint32_t shift = 126u - (bits >> 23);
    int32_t value;
    if (size < 0x1000000u && shift - 1u < 31u) {
        uint64_t product = (uint64_t)size * (bits << 8 | 0x80000000u);
        uint32_t high = (uint32_t)(product >> 32);
        uint32_t rest = high << (32u - shift) | (uint32_t)product >> shift;
        uint32_t whole = high >> shift;
        if (whole >= 512u) return sum < 0 ? lo : hi;
        if (rest - 0x7ffe0000u > 0x40000u) {
            whole += rest >> 31;
            value = (sum < 0 ? -(int32_t)whole : (int32_t)whole) + zero_point;
            return value < lo ? lo : value > hi ? hi : value;
        }
    }
    {
        float product = (float)sum * factor;
        float least = (float)(lo - zero_point), most = (float)(hi - zero_point);
        product = product > least ? product : least;
        product = product < most ? product : most;
        return (int32_t)rintf(product) + zero_point;
    }
}
""",
    **MVE_HELPERS,
}
IS_MISALIGNED = """static int is_misaligned(const void *address, uintptr_t to)
{
    return (uintptr_t)address % to != 0;
}
"""


def helpers_for(text: str) -> list[str]:
    """The functions that a text calls, and those that these call, each behind what it calls."""
    chosen: list[str] = []
    for names, written in reversed(HELPERS.items()):
        if re.search(rf"\b(?:{names})\b", text):
            chosen.append(written)
            text += written
    return chosen[::-1]
