/* One pass of a decoder-only transformer over some new tokens: what `model.Transformer` does, layer by layer,
   with packed weights (products.h) and float32 between them. The caller owns all memory and checks every size.

   Rows of activations are [tokens][width]; keys and values [kv_heads][capacity][head_dim] for each layer. */

#include <math.h>
#include <string.h>

#include "products.h"

typedef struct {
    Matrix qkv, out, gate_up, down;
    const float *attention_norm, *feed_forward_norm;
    const float *attention_post_norm, *feed_forward_post_norm, *q_norm, *k_norm; /* null where there is none */
    const float *cos, *sin;                                                       /* [positions][head_dim] */
    int32_t window;                                                               /* 0: everything is seen */
} Layer;

typedef struct {
    const Layer *layers;
    int32_t num_layers, hidden, intermediate, heads, kv_heads, head_dim, gelu;
    float eps, attention_scale;
} Model;

typedef struct {
    const Model *model;
    const Layer *layer;
    int tokens, start, capacity;
    float *keys, *values;   /* this layer's */
    float *x;               /* [tokens][hidden], from layer to layer */
    float *narrow, *wide;   /* [tokens][hidden or heads * head_dim], [tokens][the widest matrix] */
    float *mixed;           /* as narrow */
    Group *groups;
} Pass;

_Static_assert(sizeof(Pass) <= TASK_BYTES, "a task is copied");

/* --- small functions of vectors ------------------------------------------------------------------ */

INLINE float sum_of(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

INLINE float max_of(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* e^x to float32's last bits, clamped to where that is a normal number (Cephes' expf). */
INLINE __m256 exp_of(__m256 x) {
    x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.0f)), _mm256_set1_ps(88.0f));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

static void rms_norm(const float *x, const float *weight, int width, float eps, float *out) {
    __m256 squares = _mm256_setzero_ps();
    for (int i = 0; i < width; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        squares = _mm256_fmadd_ps(v, v, squares);
    }
    __m256 scale = _mm256_set1_ps(1.0f / sqrtf(sum_of(squares) / (float)width + eps));
    for (int i = 0; i < width; i += 8)
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), scale), _mm256_loadu_ps(weight + i)));
}

/* Half-rotated layout; head_dim is a multiple of 16. */
static void rotate(const float *x, const float *cos, const float *sin, int width, float *out) {
    int half = width / 2;
    for (int i = 0; i < half; i += 8) {
        __m256 low = _mm256_loadu_ps(x + i), high = _mm256_loadu_ps(x + half + i);
        __m256 c = _mm256_loadu_ps(cos + i), s = _mm256_loadu_ps(sin + i); /* both halves are the same */
        _mm256_storeu_ps(out + i, _mm256_fmsub_ps(low, c, _mm256_mul_ps(high, s)));
        _mm256_storeu_ps(out + half + i, _mm256_fmadd_ps(high, c, _mm256_mul_ps(low, s)));
    }
}

/* --- the steps of a layer, each for one token or head -------------------------------------------- */

static void norm_attention(const void *task, int t) {
    const Pass *p = task;
    int width = p->model->hidden;
    rms_norm(p->x + (size_t)t * width, p->layer->attention_norm, width, p->model->eps, p->narrow + (size_t)t * width);
}

static void norm_feed_forward(const void *task, int t) {
    const Pass *p = task;
    int width = p->model->hidden;
    rms_norm(p->x + (size_t)t * width, p->layer->feed_forward_norm, width, p->model->eps, p->narrow + (size_t)t * width);
}

/* Queries are rotated in place, keys and values go to the cache. */
static void remember(const void *task, int t) {
    const Pass *p = task;
    const Model *m = p->model;
    int width = m->head_dim, position = p->start + t;
    const float *cos = p->layer->cos + (size_t)position * width, *sin = p->layer->sin + (size_t)position * width;
    float *row = p->wide + (size_t)t * p->layer->qkv.rows;
    for (int h = 0; h < m->heads + m->kv_heads; h++, row += width) {
        const float *norm = h < m->heads ? p->layer->q_norm : p->layer->k_norm;
        if (norm) rms_norm(row, norm, width, m->eps, row);
        int kv = h - m->heads;
        rotate(row, cos, sin, width, kv < 0 ? row : p->keys + ((size_t)kv * p->capacity + position) * width);
    }
    for (int kv = 0; kv < m->kv_heads; kv++, row += width)
        memcpy(p->values + ((size_t)kv * p->capacity + position) * width, row, sizeof(float) * width);
}

#define KEYS 64   /* looked at together */
#define QUERIES 4 /* tokens that look at them together; what one of them gets does not depend on the others */

/* The sum of each, in the same order of additions wherever it stands among the four. */
INLINE __m128 four_sums(const __m256 *s) {
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(s[0], s[1]), _mm256_hadd_ps(s[2], s[3]));
    return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}

/* scores[j] = q . keys[j], four of them; where there are fewer keys the last is taken again. */
INLINE void score(const float *q, const float *keys, int count, int width, float *scores) {
    const float *key[4];
    for (int j = 0; j < 4; j++) key[j] = keys + (size_t)(j < count ? j : count - 1) * width;
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int i = 0; i < width; i += 8) {
        __m256 v = _mm256_loadu_ps(q + i);
        for (int j = 0; j < 4; j++) s[j] = _mm256_fmadd_ps(v, _mm256_loadu_ps(key[j] + i), s[j]);
    }
    _mm_storeu_ps(scores, four_sums(s));
}

/* The same for four queries: scores [QUERIES][KEYS]. */
INLINE void score_together(const float *q, size_t stride, const float *keys, int count, int width, float *scores) {
    __m128 found[4];
#pragma GCC unroll 2
    for (int j = 0; j < 4; j += 2) {
        const float *one = keys + (size_t)(j < count ? j : count - 1) * width;
        const float *other = keys + (size_t)(j + 1 < count ? j + 1 : count - 1) * width;
        __m256 s[2 * QUERIES];
#pragma GCC unroll 8
        for (int n = 0; n < 2 * QUERIES; n++) s[n] = _mm256_setzero_ps();
        for (int i = 0; i < width; i += 8) {
            __m256 first = _mm256_loadu_ps(one + i), second = _mm256_loadu_ps(other + i);
#pragma GCC unroll 4
            for (int n = 0; n < QUERIES; n++) {
                __m256 v = _mm256_loadu_ps(q + n * stride + i);
                s[n] = _mm256_fmadd_ps(v, first, s[n]);
                s[QUERIES + n] = _mm256_fmadd_ps(v, second, s[QUERIES + n]);
            }
        }
        found[j] = four_sums(s), found[j + 1] = four_sums(s + QUERIES);
    }
    _MM_TRANSPOSE4_PS(found[0], found[1], found[2], found[3]);
    for (int n = 0; n < QUERIES; n++) _mm_storeu_ps(scores + n * KEYS, found[n]);
}

/* Scores become weights, those from `count` on none; returns what earlier sums are to be multiplied by. */
INLINE float weigh(float *scores, int count, float scale, float *most, float *total) {
    for (int j = count > 0 ? count : 0; j < KEYS; j++) scores[j] = -INFINITY;
    __m256 factor = _mm256_set1_ps(scale), sum = _mm256_setzero_ps(), tops = _mm256_set1_ps(*most);
    for (int j = 0; j < KEYS; j += 8) tops = _mm256_max_ps(tops, _mm256_mul_ps(_mm256_loadu_ps(scores + j), factor));
    float top = max_of(tops);
    __m256 shift = _mm256_set1_ps(top);
    for (int j = 0; j < KEYS; j += 8) {
        __m256 s = _mm256_loadu_ps(scores + j), e = exp_of(_mm256_fmsub_ps(s, factor, shift));
        e = _mm256_and_ps(e, _mm256_cmp_ps(s, _mm256_set1_ps(-INFINITY), _CMP_NEQ_OQ));
        _mm256_storeu_ps(scores + j, e);
        sum = _mm256_add_ps(sum, e);
    }
    float fade = *most == -INFINITY ? 0.0f : expf(*most - top);
    *total = *total * fade + sum_of(sum), *most = top;
    return fade;
}

/* out[n] = fade[n] * out[n] + weights[n] . values */
INLINE void add_values(const float *weights, const float *fade, const float *values, int count, int width, int queries,
                       float *out, size_t stride) {
    for (int i = 0; i < width; i += 16) {
        __m256 low[QUERIES], high[QUERIES];
#pragma GCC unroll 4
        for (int n = 0; n < queries; n++) {
            __m256 f = _mm256_set1_ps(fade[n]);
            low[n] = _mm256_mul_ps(_mm256_loadu_ps(out + n * stride + i), f);
            high[n] = _mm256_mul_ps(_mm256_loadu_ps(out + n * stride + i + 8), f);
        }
        for (int j = 0; j < count; j++) {
            const float *value = values + (size_t)j * width + i;
            __m256 first = _mm256_loadu_ps(value), second = _mm256_loadu_ps(value + 8);
#pragma GCC unroll 4
            for (int n = 0; n < queries; n++) {
                __m256 w = _mm256_set1_ps(weights[n * KEYS + j]);
                low[n] = _mm256_fmadd_ps(w, first, low[n]), high[n] = _mm256_fmadd_ps(w, second, high[n]);
            }
        }
#pragma GCC unroll 4
        for (int n = 0; n < queries; n++) {
            _mm256_storeu_ps(out + n * stride + i, low[n]);
            _mm256_storeu_ps(out + n * stride + i + 8, high[n]);
        }
    }
}

typedef struct {
    const float *q, *keys, *values;
    float *out;
    size_t q_stride, out_stride; /* from one token to the next */
    int width;
    float scale;
} Head;

/* Softmax as it goes (Milakov and Gimelshein 2018): the running maximum rescales what was added before. The
   first query sees the keys from `first` to `end`, each further one a key more. */
INLINE void attend(Head h, int queries, int first, int end) {
    float most[QUERIES], total[QUERIES], fade[QUERIES];
    for (int n = 0; n < queries; n++) {
        most[n] = -INFINITY, total[n] = 0;
        memset(h.out + n * h.out_stride, 0, sizeof(float) * h.width);
    }
    int last = end + queries - 1;
    for (int at = first; at < last; at += KEYS) {
        int count = last - at < KEYS ? last - at : KEYS;
        float scores[QUERIES * KEYS];
        for (int j = 0; j < count; j += 4) {
            const float *keys = h.keys + (size_t)(at + j) * h.width;
            if (queries == 1) score(h.q, keys, count - j, h.width, scores + j);
            else score_together(h.q, h.q_stride, keys, count - j, h.width, scores + j);
        }
        for (int n = 0; n < queries; n++) {
            int own = end + n - at < count ? end + n - at : count;
            fade[n] = weigh(scores + n * KEYS, own, h.scale, most + n, total + n);
        }
        add_values(scores, fade, h.values + (size_t)at * h.width, count, h.width, queries, h.out, h.out_stride);
    }
    for (int n = 0; n < queries; n++) {
        __m256 inverse = _mm256_set1_ps(1.0f / total[n]);
        float *out = h.out + n * h.out_stride;
        for (int i = 0; i < h.width; i += 8) _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_loadu_ps(out + i), inverse));
    }
}

#define ATTENTION_TILE 16 /* tokens */

/* Head by head, so that the keys of one head stay in the cache from token to token. */
static Place attended_place(const void *task, int piece) {
    const Pass *p = task;
    int heads = p->model->heads, width = p->model->head_dim, start = piece / heads * ATTENTION_TILE, left = p->tokens - start;
    return (Place){.out = p->mixed + ((size_t)start * heads + piece % heads) * width, .stride = (size_t)heads * width,
                   .count = left < ATTENTION_TILE ? left : ATTENTION_TILE, .width = width};
}

static void fill_attended(const void *task, int piece, float *out, size_t stride) {
    const Pass *p = task;
    const Model *m = p->model;
    int head = piece % m->heads, start = piece / m->heads * ATTENTION_TILE, width = m->head_dim;
    size_t kept = (size_t)(head / (m->heads / m->kv_heads)) * p->capacity * width;
    int end = start + ATTENTION_TILE < p->tokens ? start + ATTENTION_TILE : p->tokens, window = p->layer->window;
    for (int t = start, together; t < end; t += together) {
        int seen = p->start + t + 1;
        Head h = {.q = p->wide + (size_t)t * p->layer->qkv.rows + (size_t)head * width, .q_stride = p->layer->qkv.rows,
                  .keys = p->keys + kept, .values = p->values + kept,
                  .out = out + (t - start) * stride, .out_stride = stride,
                  .width = width, .scale = m->attention_scale};
        together = !window && end - t >= QUERIES ? QUERIES : 1;
        if (together == QUERIES) attend(h, QUERIES, 0, seen);
        else attend(h, 1, window && seen > window ? seen - window : 0, seen);
    }
}

/* silu(x) = x * sigmoid(x); gelu's tanh form is x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 x^3)). */
static void gate(const void *task, int t) {
    const Pass *p = task;
    int width = p->model->intermediate;
    float *gates = p->wide + (size_t)t * 2 * width;
    const __m256 one = _mm256_set1_ps(1.0f);
    for (int i = 0; i < width; i += 8) {
        __m256 x = _mm256_loadu_ps(gates + i), up = _mm256_loadu_ps(gates + width + i), at = x;
        if (p->model->gelu) {
            __m256 cube = _mm256_mul_ps(_mm256_mul_ps(x, x), x);
            at = _mm256_mul_ps(_mm256_fmadd_ps(cube, _mm256_set1_ps(0.044715f), x), _mm256_set1_ps(1.5957691216f));
        }
        __m256 open = _mm256_div_ps(one, _mm256_add_ps(one, exp_of(_mm256_sub_ps(_mm256_setzero_ps(), at))));
        _mm256_storeu_ps(gates + i, _mm256_mul_ps(_mm256_mul_ps(x, open), up));
    }
}

static void add_to_x(const Pass *p, const float *norm) {
    int width = p->model->hidden;
    for (int t = 0; t < p->tokens; t++) {
        float *x = p->x + (size_t)t * width, *more = p->narrow + (size_t)t * width;
        if (norm) rms_norm(more, norm, width, p->model->eps, more);
        for (int i = 0; i < width; i += 8) _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(more + i)));
    }
}

static void each(void (*work)(const void *, int), const Pass *p) {
    if (p->tokens > 8) share_work(work, p, sizeof *p, p->tokens);
    else for (int t = 0; t < p->tokens; t++) work(p, t);
}

static void product(const Pass *p, const Matrix *matrix, const float *x, size_t x_stride, float *out) {
    multiply((Product){.matrix = *matrix, .tokens = p->tokens, .num_units = matrix->rows / ROWS, .x = x, .x_stride = x_stride,
                       .groups = p->groups, .out = out});
}

/* Of the last layer's tokens only the last ones' rows of x are wanted: from here on the others are left out. */
static void keep_last(Pass *p, int wanted) {
    int left = p->tokens - wanted;
    p->x += (size_t)left * p->model->hidden, p->wide += (size_t)left * p->layer->qkv.rows;
    p->start += left, p->tokens = wanted;
}

static void layer_pass(Pass *p, int wanted) {
    const Layer *layer = p->layer;
    const Model *m = p->model;
    each(norm_attention, p);
    product(p, &layer->qkv, p->narrow, m->hidden, p->wide);
    each(remember, p);
    keep_last(p, wanted);
    int pieces = m->heads * ((p->tokens + ATTENTION_TILE - 1) / ATTENTION_TILE);
    share_filling(fill_attended, attended_place, p, sizeof *p, pieces);
    product(p, &layer->out, p->mixed, (size_t)m->heads * m->head_dim, p->narrow);
    add_to_x(p, layer->attention_post_norm);
    each(norm_feed_forward, p);
    product(p, &layer->gate_up, p->narrow, m->hidden, p->wide);
    each(gate, p);
    product(p, &layer->down, p->wide, (size_t)2 * m->intermediate, p->narrow); /* behind each gate stand the others */
    add_to_x(p, layer->feed_forward_post_norm);
}

/* --- what Python calls -------------------------------------------------------------------------- */

int llmos_start(int threads, long spins) { return start_threads(threads, spins); }

/* out: [tokens][num_units * 8], of those eights of rows that `units` names (null: the first ones). */
void llmos_product(const Matrix *matrix, int tokens, const float *x, const int32_t *units, int num_units, void *groups,
                   float *out) {
    multiply((Product){.matrix = *matrix, .tokens = tokens, .units = units, .num_units = num_units, .x = x,
                       .x_stride = matrix->columns, .groups = groups, .out = out});
    finish();
}

/* x becomes what the last layer gives, of the last `wanted` tokens only. keys and values: for each layer an address.
   narrow and mixed: tokens * max(hidden, heads * head_dim) floats each, wide: tokens * the most rows of a matrix,
   groups: tokens * (the most columns and ranks / 32 of 40 bytes, the highest rank of 4 bytes). */
void llmos_forward(const Model *model, int tokens, int wanted, int start, int capacity, float **keys, float **values,
                   float *x, float *narrow, float *mixed, float *wide, void *groups) {
    Pass pass = {.model = model, .tokens = tokens, .start = start, .capacity = capacity, .x = x,
                 .narrow = narrow, .wide = wide, .mixed = mixed, .groups = groups};
    for (int i = 0; i < model->num_layers; i++) {
        pass.layer = model->layers + i, pass.keys = keys[i], pass.values = values[i];
        layer_pass(&pass, i == model->num_layers - 1 ? wanted : tokens);
    }
    finish();
}
