#pragma once
/* Matrix products with packed weights, for processors with AVX2 (and VNNI where the compiler says so: twice the
   registers hold the sums of twice the tokens, to the same bits).

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
    int32_t minus_sum;
    int8_t values[GROUP];
} Group;

/* value + high * low where there is an addition of low rank (Hu et al. 2021), which is multiplied beside the weights. */
typedef struct Matrix {
    const Part *parts;
    const float *bias;        /* [rows] or null */
    const struct Matrix *low; /* [rank][columns] or null */
    const uint8_t *high;      /* [rows][rank], KIND_7 */
    int32_t num_parts, rows, columns;
} Matrix;

typedef struct {
    Matrix matrix;
    int tokens, num_units;
    const int32_t *units; /* which eights of rows, [num_units]; null: all of them */
    const float *x;       /* [tokens][columns], each x_stride behind the one before */
    size_t x_stride;
    Group *groups;        /* for each tile of tokens [columns / GROUP][tile] */
    float *out;           /* [tokens][num_units * ROWS] */
    const Group *side;    /* what `low` gives, as `groups`, with the rank for columns */
} Product;

_Static_assert(sizeof(Product) <= TASK_BYTES, "a task is copied");

/* Eight rows' place among the results. */
typedef struct {
    int row;
    float *out;
    size_t stride;
} Rows;

#define AHEAD 2048 /* bytes */

/* Tokens that are multiplied together, and how many of those left over are. */
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define VNNI 1
#define TILE 8
INLINE int tile_of(int left) { return left >= TILE ? TILE : left; }
#else
#define VNNI 0
#define TILE 4
INLINE int tile_of(int left) { return left >= TILE ? TILE : left >= 2 ? 2 : 1; }
#endif

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
    out->minus_sum = -total;
}

/* --- one block of 8 rows against a few tokens --------------------------------------------------- */

/* `plain`: unpacked already, a byte each. */
INLINE __m256i weights_of(const uint8_t *data, int kind, int plain, int step) {
    if (plain || kind == KIND_7) return _mm256_loadu_si256((const __m256i *)data + step);
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

/* sums[t] += the 8 rows' whole-number products with token t. */
INLINE void dot(const uint8_t *data, int kind, int plain, const Group *groups, int count, __m256i *sums) {
#if VNNI
#pragma GCC unroll 8
    for (int step = 0; step < STEPS; step++) {
        __m256i w = weights_of(data, kind, plain, step);
#pragma GCC unroll 8
        for (int t = 0; t < count; t++) sums[t] = _mm256_dpbusd_epi32(sums[t], w, four(groups + t, step));
    }
#else
    /* How many products of pairs 16 bits hold: 2 * 127 * 15 or 31 or 127 each. */
    const int hold = kind == KIND_7 ? 1 : kind == KIND_5 ? 4 : 8;
#pragma GCC unroll 8
    for (int first = 0; first < STEPS; first += hold) {
        __m256i pairs[TILE];
#pragma GCC unroll 8
        for (int step = first; step < first + hold; step++) {
            __m256i w = weights_of(data, kind, plain, step);
#pragma GCC unroll 8
            for (int t = 0; t < count; t++) {
                __m256i product = _mm256_maddubs_epi16(w, four(groups + t, step));
                pairs[t] = step == first ? product : _mm256_add_epi16(pairs[t], product);
                __asm__ volatile("" : "+x"(pairs[t])); /* in this order: reordered, the sums no longer fit the registers */
            }
        }
#pragma GCC unroll 8
        for (int t = 0; t < count; t++) sums[t] = _mm256_add_epi32(sums[t], widened(pairs[t]));
    }
#endif
}

INLINE __m256 halves(const uint8_t *at) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at)); }

/* What is taken from a weight is a power of two; where a minimum is taken it is nothing. */
INLINE int shift_of(int kind) { return kind == KIND_7 ? 6 : kind == KIND_5 ? 4 : 3; }
INLINE int head_of(int kind) { return kind == KIND_4_MIN ? 32 : 16; }

/* Whole blocks: the processor's own prefetching ends at each page, and single lines ahead only confuse it. */
INLINE void fetch_ahead(const uint8_t *block, int kind) {
    for (int at = 0; at < BLOCK_BYTES[kind]; at += 64) _mm_prefetch((const char *)block + AHEAD + at, _MM_HINT_T0);
}

/* total[t] += 8 rows' products with `count` tokens, group by group. With `plain` the weights are read from there. */
INLINE void add_groups(const uint8_t *block, int kind, int is_plain, const uint8_t *plain, const Group *groups, int num_groups, int count,
                       __m256 *total) {
    for (int g = 0; g < num_groups; g++, block += BLOCK_BYTES[kind], groups += count) {
        if (!is_plain) fetch_ahead(block, kind);
        __m256 scale = halves(block);
        __m256i sums[TILE];
#pragma GCC unroll 8
        for (int t = 0; t < count; t++)
            sums[t] = kind == KIND_4_MIN ? _mm256_setzero_si256() : _mm256_slli_epi32(_mm256_set1_epi32(groups[t].minus_sum), shift_of(kind));
        dot(is_plain ? plain + (size_t)g * ROWS * GROUP : block + head_of(kind), kind, is_plain, groups, count, sums);
#pragma GCC unroll 8
        for (int t = 0; t < count; t++) {
            __m256 own = _mm256_set1_ps(groups[t].scale);
            if (kind == KIND_4_MIN)
                total[t] = _mm256_fmadd_ps(halves(block + 16), _mm256_mul_ps(own, _mm256_set1_ps((float)groups[t].minus_sum)), total[t]);
            total[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[t]), _mm256_mul_ps(scale, own), total[t]);
        }
    }
}

INLINE void rows_by_tokens(const uint8_t *block, int kind, int is_plain, const uint8_t *plain, const Product *p, int token, int count, Rows to) {
    const int num_groups = p->matrix.columns / GROUP;
    __m256 total[TILE];
#pragma GCC unroll 8
    for (int t = 0; t < count; t++) total[t] = p->matrix.bias ? _mm256_loadu_ps(p->matrix.bias + to.row) : _mm256_setzero_ps();
    add_groups(block, kind, is_plain, plain, p->groups + (size_t)token * num_groups, num_groups, count, total);
    if (p->side) {
        const int rank = p->matrix.low->rows / GROUP;
        add_groups(p->matrix.high + (size_t)(to.row / ROWS) * rank * BLOCK_BYTES[KIND_7], KIND_7, 0, 0, p->side + (size_t)token * rank,
                   rank, count, total);
    }
#pragma GCC unroll 8
    for (int t = 0; t < count; t++) _mm256_storeu_ps(to.out + (size_t)(token + t) * to.stride, total[t]);
}

#define MANY (2 * TILE) /* tokens from which on unpacking 8 rows once pays; with VNNI it never does */

/* [columns / GROUP][STEPS][8 rows][4 columns] */
INLINE void unpack(const uint8_t *block, int kind, int num_groups, uint8_t *plain) {
    for (int g = 0; g < num_groups; g++, block += BLOCK_BYTES[kind])
#pragma GCC unroll 8
        for (int step = 0; step < STEPS; step++, plain += ROWS * 4)
            _mm256_storeu_si256((__m256i *)plain, weights_of(block + head_of(kind), kind, 0, step));
}

INLINE void rows_by_all(const uint8_t *blocks, int kind, const Product *p, Rows to) {
    int token = 0;
    if (!VNNI && p->tokens >= MANY) {
        uint8_t plain[p->matrix.columns * ROWS];
        unpack(blocks, kind, p->matrix.columns / GROUP, plain);
        for (; token + TILE <= p->tokens; token += TILE) rows_by_tokens(blocks, kind, 1, plain, p, token, TILE, to);
    }
    for (int tile; token < p->tokens; token += tile) {
        tile = tile_of(p->tokens - token);
#define CASE(count) case count: rows_by_tokens(blocks, kind, 0, 0, p, token, count, to); break;
        switch (tile) {
            CASE(1) CASE(2) CASE(4)
#if VNNI
            CASE(3) CASE(5) CASE(6) CASE(7) CASE(8)
#endif
        }
#undef CASE
    }
}

/* Rows are counted in eights over all parts. */
static void eight_rows(const Product *p, int unit, float *out, size_t stride) {
    Rows to = {.row = unit * ROWS, .out = out, .stride = stride};
    const Part *part = p->matrix.parts;
    while (unit >= part->rows / ROWS) unit -= (part++)->rows / ROWS;
    const uint8_t *blocks = part->blocks + (size_t)unit * (p->matrix.columns / GROUP) * BLOCK_BYTES[part->kind];
    switch (part->kind) {
    case KIND_7: rows_by_all(blocks, KIND_7, p, to); break;
    case KIND_5: rows_by_all(blocks, KIND_5, p, to); break;
    case KIND_4: rows_by_all(blocks, KIND_4, p, to); break;
    case KIND_4_MIN: rows_by_all(blocks, KIND_4_MIN, p, to); break;
    }
}

/* --- the whole product --------------------------------------------------------------------------- */

#define UNITS 4 /* a piece is 4 * 8 rows */

static void round_column(const void *task, int g) {
    const Product *p = task;
    const int columns = p->matrix.columns;
    for (int token = 0, tile; token < p->tokens; token += tile) {
        tile = tile_of(p->tokens - token);
        Group *groups = p->groups + (size_t)token * (columns / GROUP) + (size_t)g * tile;
        for (int t = 0; t < tile; t++) round_group(p->x + (token + t) * p->x_stride + g * GROUP, groups + t);
    }
}

static void round_all(const Product *p) {
    int columns = p->matrix.columns / GROUP;
    if (p->tokens > 8) share_work(round_column, p, sizeof *p, columns);
    else for (int g = 0; g < columns; g++) round_column(p, g);
}

static Place rows_place(const void *task, int piece) {
    const Product *p = task;
    int left = p->num_units - piece * UNITS;
    return (Place){.out = p->out + (size_t)piece * UNITS * ROWS, .stride = (size_t)p->num_units * ROWS, .count = p->tokens,
                   .width = (left < UNITS ? left : UNITS) * ROWS};
}

static void fill_rows(const void *task, int piece, float *out, size_t stride) {
    const Product *p = task;
    int first = piece * UNITS, end = first + UNITS < p->num_units ? first + UNITS : p->num_units;
    for (int i = first; i < end; i++) eight_rows(p, p->units ? p->units[i] : i, out + (i - first) * ROWS, stride);
}

static void fill_all(const Product *p) {
    share_filling(fill_rows, rows_place, p, sizeof *p, (p->num_units + UNITS - 1) / UNITS);
}

/* `groups` has room for the groups of x and, where there is an addition, those of the low rank and as many floats. */
static void multiply(Product p) {
    round_all(&p);
    if (p.matrix.low) {
        const int rank = p.matrix.low->rows;
        Group *side = p.groups + (size_t)p.tokens * (p.matrix.columns / GROUP);
        float *narrow = (float *)(side + (size_t)p.tokens * (rank / GROUP));
        fill_all(&(Product){.matrix = *p.matrix.low, .tokens = p.tokens, .num_units = rank / ROWS, .groups = p.groups, .out = narrow});
        round_all(&(Product){.matrix = {.columns = rank}, .tokens = p.tokens, .x = narrow, .x_stride = rank, .groups = side});
        p.side = side;
    }
    fill_all(&p);
}
