#pragma once
/* Matrix products with packed weights, for processors with AVX2 (and VNNI where the compiler says so).

   out[m][n] = sum over k of weight[n][k] * x[m][k], weights of 4, 5 or 7 bits, activations rounded to 8 bits.
   Both are held in groups of 32 along k with a scale of their own (Dettmers et al. 2022; ggml's Q4_0 to Q5_1).

   A block is 8 rows by 32 columns:
       8 half-precision scales; with KIND_4_MIN also 8 half-precision minima
       the weights, unsigned, as 8 steps of [8 rows][4 columns], so that one 32-bit lane of a vector is a row:
         7 bits: 8 * 32 bytes
         4 bits: 4 * 32 bytes, the even step in the low half of each byte
         5 bits: as 4 bits, then 32 bytes whose bit s is the fifth bit of step s
   value = scale * (weight - zero), zero = 64, 16 or 8; with minima value = scale * weight - minimum.
   Blocks lie along k, then along n. `groups.py` writes them and has the same values in torch.

   Pairs of products are added in 16 bits: 127 * 127 * 2 fits, which is why the widest weight has 7 bits and
   an activation none but -127..127. The caller checks every size; nothing is checked here. */

#include <immintrin.h>
#include <stdint.h>

#include "threads.h"

#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "AVX2, FMA and F16C are needed"
#endif

#define GROUP 32
#define ROWS 8
#define STEPS 8
#define INLINE static inline __attribute__((always_inline))

enum { KIND_7, KIND_5, KIND_4, KIND_4_MIN };
static const int BLOCK_BYTES[] = {16 + 256, 16 + 160, 16 + 128, 32 + 128};

typedef struct {
    const uint8_t *blocks;
    int32_t rows, kind;
} Part;

/* One token's activations in one group. */
typedef struct {
    float scale;
    int32_t sum;
    int8_t values[GROUP];
} Group;

typedef struct {
    const Part *parts;
    const float *bias; /* [rows] or null */
    int32_t num_parts, rows, columns;
} Matrix;

typedef struct {
    Matrix matrix;
    int tokens;
    const float *x; /* [tokens][columns] */
    Group *groups;  /* [columns / GROUP][tokens] */
    float *out;     /* [tokens][rows] */
} Product;

/* --- activations ----------------------------------------------------------------------------- */

static void round_group(const float *x, Group *out) {
    __m256 part[4], top = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        part[i] = _mm256_loadu_ps(x + 8 * i);
        top = _mm256_max_ps(top, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), part[i]));
    }
    float lanes[8], most = 0;
    _mm256_storeu_ps(lanes, top);
    for (int i = 0; i < 8; i++) most = lanes[i] > most ? lanes[i] : most;
    __m256 inverse = _mm256_set1_ps(most > 0 ? 127.0f / most : 0.0f);
    __m256i whole[4], sum = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        whole[i] = _mm256_cvtps_epi32(_mm256_mul_ps(part[i], inverse));
        sum = _mm256_add_epi32(sum, whole[i]);
    }
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]), _mm256_packs_epi32(whole[2], whole[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)out->values, bytes);
    int32_t sums[8], total = 0;
    _mm256_storeu_si256((__m256i *)sums, sum);
    for (int i = 0; i < 8; i++) total += sums[i];
    out->scale = most / 127.0f;
    out->sum = total;
}

/* --- one block of 8 rows against a few tokens --------------------------------------------------- */

INLINE __m256i weights_of(const uint8_t *data, int kind, int step) {
    if (kind == KIND_7) return _mm256_loadu_si256((const __m256i *)data + step);
    __m256i pair = _mm256_loadu_si256((const __m256i *)data + step / 2);
    if (step % 2) pair = _mm256_srli_epi16(pair, 4);
    __m256i low = _mm256_and_si256(pair, _mm256_set1_epi8(15));
    if (kind != KIND_5) return low;
    __m256i plane = _mm256_loadu_si256((const __m256i *)data + 4);
    plane = step < 4 ? _mm256_slli_epi16(plane, 4 - step) : _mm256_srli_epi16(plane, step - 4);
    return _mm256_or_si256(low, _mm256_and_si256(plane, _mm256_set1_epi8(16)));
}

INLINE __m256i four(const Group *group, int step) {
    int32_t word;
    __builtin_memcpy(&word, group->values + 4 * step, 4);
    return _mm256_set1_epi32(word);
}

INLINE __m256i widened(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

/* sums[t] = the 8 rows' whole-number products with token t. */
INLINE void dot(const uint8_t *data, int kind, const Group *groups, int count, __m256i *sums) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    for (int t = 0; t < count; t++) sums[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int step = 0; step < STEPS; step++) {
        __m256i w = weights_of(data, kind, step);
        for (int t = 0; t < count; t++) sums[t] = _mm256_dpbusd_epi32(sums[t], w, four(groups + t, step));
    }
#else
    /* How many products of pairs 16 bits hold: 2 * 127 * 15 or 31 or 127 each. */
    const int hold = kind == KIND_7 ? 1 : kind == KIND_5 ? 4 : 8;
#pragma GCC unroll 8
    for (int first = 0; first < STEPS; first += hold) {
        __m256i pairs[8];
#pragma GCC unroll 8
        for (int step = first; step < first + hold; step++) {
            __m256i w = weights_of(data, kind, step);
#pragma GCC unroll 8
            for (int t = 0; t < count; t++) {
                __m256i product = _mm256_maddubs_epi16(w, four(groups + t, step));
                pairs[t] = step == first ? product : _mm256_add_epi16(pairs[t], product);
                __asm__("" : "+x"(pairs[t])); /* in this order: reordered, the sums no longer fit the registers */
            }
        }
#pragma GCC unroll 8
        for (int t = 0; t < count; t++) {
            __m256i wide = widened(pairs[t]);
            sums[t] = first ? _mm256_add_epi32(sums[t], wide) : wide;
        }
    }
#endif
}

INLINE __m256 halves(const uint8_t *at) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at)); }

INLINE void rows_by_tokens(const uint8_t *block, int kind, const Product *p, int token, int count, int row) {
    const int zero = kind == KIND_7 ? 64 : kind == KIND_5 ? 16 : 8;
    const int head = kind == KIND_4_MIN ? 32 : 16;
    __m256 total[8];
#pragma GCC unroll 8
    for (int t = 0; t < count; t++) total[t] = p->matrix.bias ? _mm256_loadu_ps(p->matrix.bias + row) : _mm256_setzero_ps();
    for (int g = 0; g < p->matrix.columns / GROUP; g++, block += BLOCK_BYTES[kind]) {
        const Group *groups = p->groups + (size_t)g * p->tokens + token;
        if (count == 1) _mm_prefetch((const char *)block + 2048, _MM_HINT_T0);
        __m256 scale = halves(block);
        __m256i sums[8];
        dot(block + head, kind, groups, count, sums);
#pragma GCC unroll 8
        for (int t = 0; t < count; t++) {
            __m256 own = _mm256_set1_ps(groups[t].scale);
            if (kind == KIND_4_MIN) {
                __m256 least = _mm256_mul_ps(halves(block + 16), _mm256_set1_ps(groups[t].scale * (float)groups[t].sum));
                total[t] = _mm256_sub_ps(total[t], least);
            } else {
                sums[t] = _mm256_sub_epi32(sums[t], _mm256_set1_epi32(zero * groups[t].sum));
            }
            total[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[t]), _mm256_mul_ps(scale, own), total[t]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < count; t++) _mm256_storeu_ps(p->out + (size_t)(token + t) * p->matrix.rows + row, total[t]);
}

INLINE void rows_by_all(const uint8_t *blocks, int kind, const Product *p, int row) {
    int token = 0;
    for (; token + 8 <= p->tokens; token += 8) rows_by_tokens(blocks, kind, p, token, 8, row);
    if (p->tokens - token >= 4) rows_by_tokens(blocks, kind, p, token, 4, row), token += 4;
    if (p->tokens - token >= 2) rows_by_tokens(blocks, kind, p, token, 2, row), token += 2;
    if (p->tokens - token >= 1) rows_by_tokens(blocks, kind, p, token, 1, row);
}

/* Rows are counted in eights over all parts. */
static void eight_rows(const Product *p, int unit) {
    int row = unit * ROWS;
    const Part *part = p->matrix.parts;
    while (unit >= part->rows / ROWS) unit -= (part++)->rows / ROWS;
    const uint8_t *blocks = part->blocks + (size_t)unit * (p->matrix.columns / GROUP) * BLOCK_BYTES[part->kind];
    switch (part->kind) {
    case KIND_7: rows_by_all(blocks, KIND_7, p, row); break;
    case KIND_5: rows_by_all(blocks, KIND_5, p, row); break;
    case KIND_4: rows_by_all(blocks, KIND_4, p, row); break;
    case KIND_4_MIN: rows_by_all(blocks, KIND_4_MIN, p, row); break;
    }
}

/* --- the whole product --------------------------------------------------------------------------- */

#define UNITS 4 /* a piece is 4 * 8 rows */

static void round_column(const void *task, int g) {
    const Product *p = task;
    for (int t = 0; t < p->tokens; t++)
        round_group(p->x + (size_t)t * p->matrix.columns + g * GROUP, p->groups + (size_t)g * p->tokens + t);
}

static void rows_piece(const void *task, int piece) {
    const Product *p = task;
    int total = p->matrix.rows / ROWS, end = (piece + 1) * UNITS;
    for (int unit = piece * UNITS; unit < end && unit < total; unit++) eight_rows(p, unit);
}

static void multiply(const Matrix *matrix, int tokens, const float *x, Group *groups, float *out) {
    Product p = {*matrix, tokens, x, groups, out};
    int columns = matrix->columns / GROUP;
    if (tokens > 8) share(round_column, &p, columns);
    else for (int g = 0; g < columns; g++) round_column(&p, g);
    share(rows_piece, &p, (matrix->rows / ROWS + UNITS - 1) / UNITS);
}
