"""Small functions in files of C for cores with ARM's vectors of microcontrollers (MVE).

Each says the same in plain C for other machines; floats are computed one by one there.
"""

from __future__ import annotations

_IF = "#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 2)"

TYPES = f"""/* Vectors: four integers, which may stand for bytes; four floats; sixteen bytes. */
{_IF}
#include <arm_mve.h>
typedef int32x4_t words4;
typedef float32x4_t floats4;
typedef int8x16_t bytes16;
#else
typedef struct {{ int32_t at[4]; }} words4;
typedef struct {{ float at[4]; }} floats4;
typedef struct {{ int8_t at[16]; }} bytes16;
#endif
"""


def _function(about: str, head: str, vectors: str, plain: str) -> str:
    """A function whose lines differ between machines."""
    return f"/* {about} */\nstatic inline {head}\n{{\n{_IF}\n{vectors}#else\n{plain}#endif\n}}\n"


MVE_HELPERS: dict[str, str] = {
    "words4|floats4|bytes16": TYPES,
    "four_words": _function(
        "Four numbers as a vector.",
        "words4 four_words(int32_t a, int32_t b, int32_t c, int32_t d)",
        "    words4 all = {a, b, c, d};\n    return all;\n",
        "    words4 all = {{a, b, c, d}};\n    return all;\n",
    ),
    "four_floats": _function(
        "Four numbers as a vector.",
        "floats4 four_floats(float a, float b, float c, float d)",
        "    floats4 all = {a, b, c, d};\n    return all;\n",
        "    floats4 all = {{a, b, c, d}};\n    return all;\n",
    ),
    "load_words4": _function(
        "Four numbers from memory.",
        "words4 load_words4(const int32_t *address)",
        "    return vldrwq_s32(address);\n",
        "    words4 all;\n    memcpy(&all, address, sizeof all);\n    return all;\n",
    ),
    "load_floats4": _function(
        "Four numbers from memory.",
        "floats4 load_floats4(const float *address)",
        "    return vldrwq_f32(address);\n",
        "    floats4 all;\n    memcpy(&all, address, sizeof all);\n    return all;\n",
    ),
    "load_bytes16": _function(
        "Sixteen bytes from memory.",
        "bytes16 load_bytes16(const int8_t *address)",
        "    return vldrbq_s8(address);\n",
        "    bytes16 all;\n    memcpy(&all, address, sizeof all);\n    return all;\n",
    ),
    "load_bytes4": _function(
        "Four bytes from memory, as a vector.",
        "words4 load_bytes4(const int8_t *address)",
        "    return vldrbq_s32(address);\n",
        "    words4 all;\n    int i;\n"
        "    for (i = 0; i < 4; i++) all.at[i] = address[i];\n    return all;\n",
    ),
    "store_bytes4": _function(
        "Four bytes to memory.",
        "void store_bytes4(int8_t *address, words4 all)",
        "    vstrbq_s32(address, all);\n",
        "    int i;\n    for (i = 0; i < 4; i++) address[i] = (int8_t)all.at[i];\n",
    ),
    "add_sixteen_products": _function(
        "A sum, and the products of sixteen pairs of bytes.",
        "int32_t add_sixteen_products(int32_t sum, bytes16 a, bytes16 b)",
        "    return vmladavaq_s8(sum, a, b);\n",
        "    uint32_t total = (uint32_t)sum;\n    int i;\n"
        "    for (i = 0; i < 16; i++) total += (uint32_t)(a.at[i] * b.at[i]);\n"
        "    return (int32_t)total;\n",
    ),
    "add_four_products": _function(
        "Sums, and the product of a pair of bytes in each.",
        "words4 add_four_products(words4 sums, words4 a, words4 b)",
        "    return vaddq_s32(sums, vmulq_s32(a, b));\n",
        "    int i;\n    for (i = 0; i < 4; i++)\n"
        "        sums.at[i] = (int32_t)((uint32_t)sums.at[i] + (uint32_t)(a.at[i] * b.at[i]));\n"
        "    return sums;\n",
    ),
    "bounded": """/* A number within bounds. */
static inline int32_t bounded(int32_t value, int32_t lo, int32_t hi)
{
    return value < lo ? lo : value > hi ? hi : value;
}
""",
    "clamp_four": _function(
        "Numbers within bounds.",
        "words4 clamp_four(words4 all, int32_t lo, int32_t hi)",
        "    return vminq_s32(vmaxq_s32(all, vdupq_n_s32(lo)), vdupq_n_s32(hi));\n",
        "    int i;\n    for (i = 0; i < 4; i++) all.at[i] = bounded(all.at[i], lo, hi);\n"
        "    return all;\n",
    ),
    "requantize_four": _function(
        "Sums times factors, rounded half to even, moved, within bounds. What no integer of 32\n"
        " * bits is near is out of bounds.",
        "words4 requantize_four(words4 sums, floats4 factors, int32_t zero_point, int32_t lo,\n"
        "                                     int32_t hi)",
        "    words4 near = vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums), factors));\n"
        "    return clamp_four(vqaddq_n_s32(near, zero_point), lo, hi);\n",
        "    int i;\n"
        "    for (i = 0; i < 4; i++) {\n"
        "        float least = (float)(lo - zero_point), most = (float)(hi - zero_point);\n"
        "        float value = (float)sums.at[i] * factors.at[i];\n"
        "        value = value > least ? value : least;\n"
        "        value = value < most ? value : most;\n"
        "        sums.at[i] = (int32_t)rintf(value) + zero_point;\n"
        "    }\n"
        "    return sums;\n",
    ),
    "add_four": _function(
        "Sums of two numbers each, in fixed point.",
        "words4 add_four(words4 a, words4 b, int32_t by_a, int32_t by_b, int32_t offset,\n"
        "                              int32_t shift, int32_t zero_point, int32_t lo, int32_t hi)",
        "    words4 sums = vmlaq_n_s32(vmlaq_n_s32(vdupq_n_s32(offset), a, by_a), b, by_b);\n"
        "    sums = vaddq_n_s32(vshlq_r_s32(sums, -shift), zero_point);\n"
        "    return clamp_four(sums, lo, hi);\n",
        "    int i;\n    for (i = 0; i < 4; i++) {\n"
        "        int32_t sum = (a.at[i] * by_a + b.at[i] * by_b + offset) >> shift;\n"
        "        a.at[i] = bounded(sum + zero_point, lo, hi);\n    }\n    return a;\n",
    ),
    "look_up_four": _function(
        "The entries of numbers from -128 to 127.",
        "words4 look_up_four(const int8_t *table, words4 all)",
        "    uint32x4_t places = vreinterpretq_u32_s32(vaddq_n_s32(all, 128));\n"
        "    return vldrbq_gather_offset_s32(table, places);\n",
        "    int i;\n    for (i = 0; i < 4; i++) all.at[i] = table[all.at[i] + 128];\n"
        "    return all;\n",
    ),
}
