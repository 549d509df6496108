#pragma once
/* Work shared among a few threads that live as long as the process. */

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_HELPERS 7
#define TASK_BYTES 192
#define ASIDE (512 * 32)    /* floats that a helper can compute beside the result */
#define PATIENCE 4000       /* pauses, before a thread that waits lets others run */
#define LEAST_TICKS 20000   /* of the processor's clock: some microseconds */

/* Work is taken in small pieces from one counter. Beside busy neighbours the kernel puts a helper aside for milliseconds,
   a hundred times as long as a piece takes. So what a helper computes it computes beside the result (`aside`), and puts it
   there only if the piece is still its own: one that takes too long is computed again by the thread that waits for it.
   A helper that comes back finds that nobody wants its piece any more, but has read the caller's memory until then: that
   is why `finish` stands at the end of whatever is called from outside.

   Helpers wait a moment by spinning (the next product is some microseconds away), then sleep. */

/* Where a piece belongs: `count` rows of `width` floats, `stride` apart. */
typedef struct {
    float *out;
    size_t stride;
    int count, width;
} Place;

typedef struct {
    void (*work)(const void *task, int piece);                                   /* changes things in place, */
    void (*fill)(const void *task, int piece, float *out, size_t stride);        /* or fills a place of its own */
    Place (*place)(const void *task, int piece);
    int aside, num_pieces;
    char task[TASK_BYTES];
} Job;

typedef struct {
    pthread_t thread;
    _Atomic(int64_t) piece; /* what is being computed aside, as `named`; NONE, or KEPT while it is being put in its place */
    _Atomic(int32_t) reading;
    float aside[ASIDE];
} Helper;

enum { NONE = 0, KEPT = -1 };

static struct {
    Helper helpers[MAX_HELPERS];
    int num_helpers;
    long spins;
    _Atomic(int32_t) round, sleeping;
    Job job;
    _Atomic(int64_t) next; /* the round above, the piece below: a late helper cannot take a piece of another round */
    _Atomic(int32_t) done;
} pool;

static int64_t named(int32_t round, int32_t piece) { return (int64_t)((uint64_t)(uint32_t)round << 32 | (uint32_t)piece); }

static void futex(_Atomic(int32_t) *at, int operation, int32_t value) {
    syscall(SYS_futex, (int32_t *)at, operation | FUTEX_PRIVATE_FLAG, value, 0, 0, 0);
}

/* A piece of this round, or -1 where there is none left. */
static int take_piece(int32_t round, int num_pieces) {
    int64_t at = atomic_load(&pool.next);
    do {
        if ((int32_t)(at >> 32) != round || (int32_t)at >= num_pieces) return -1;
    } while (!atomic_compare_exchange_weak(&pool.next, &at, at + 1));
    return (int32_t)at;
}

static void do_piece(const Job *job, int piece) {
    if (job->work) {
        job->work(job->task, piece);
    } else {
        Place place = job->place(job->task, piece);
        job->fill(job->task, piece, place.out, place.stride);
    }
}

/* --- helpers ------------------------------------------------------------------------------------- */

static void fill_aside(Helper *me, const Job *job, int32_t round, int piece) {
    int64_t own = named(round, piece + 1);
    atomic_store(&me->piece, own);
    Place place = job->place(job->task, piece);
    job->fill(job->task, piece, me->aside, place.width);
    if (!atomic_compare_exchange_strong(&me->piece, &own, KEPT)) return; /* somebody was tired of waiting */
    for (int i = 0; i < place.count; i++)
        memcpy(place.out + i * place.stride, me->aside + (size_t)i * place.width, sizeof(float) * place.width);
    atomic_fetch_add(&pool.done, 1);
    atomic_store(&me->piece, NONE);
}

static void help(Helper *me, int32_t round) {
    Job job = pool.job; /* may be of another round by now, or half of one: then there is no piece to take */
    for (int piece; (piece = take_piece(round, job.num_pieces)) >= 0;) {
        if (job.aside) {
            fill_aside(me, &job, round, piece);
        } else {
            do_piece(&job, piece);
            atomic_fetch_add(&pool.done, 1);
        }
    }
}

static void *helper(void *self) {
    Helper *me = self;
    int32_t seen = 0;
    for (;;) {
        for (long i = 0; i < pool.spins && atomic_load(&pool.round) == seen; i++) _mm_pause();
        while (atomic_load(&pool.round) == seen) {
            atomic_fetch_add(&pool.sleeping, 1);
            futex(&pool.round, FUTEX_WAIT, seen);
            atomic_fetch_sub(&pool.sleeping, 1);
        }
        atomic_store(&me->reading, 1);
        seen = atomic_load(&pool.round);
        help(me, seen);
        atomic_store(&me->reading, 0);
    }
    return 0;
}

/* --- the caller ---------------------------------------------------------------------------------- */

static void wait_a_moment(int *spins) {
    if ((*spins)++ < PATIENCE) _mm_pause();
    else sched_yield();
}

static void take_over(const Job *job, int32_t round) {
    for (int i = 0; i < pool.num_helpers; i++) {
        int64_t held = atomic_load(&pool.helpers[i].piece);
        if (held == KEPT || (int32_t)(held >> 32) != round || (int32_t)held == NONE) continue;
        if (!atomic_compare_exchange_strong(&pool.helpers[i].piece, &held, NONE)) continue;
        do_piece(job, (int32_t)held - 1);
        atomic_fetch_add(&pool.done, 1);
    }
}

static void do_together(const Job *job, int32_t round) {
    uint64_t began = __rdtsc(), quickest = UINT64_MAX;
    for (int piece; (piece = take_piece(round, job->num_pieces)) >= 0;) {
        do_piece(job, piece);
        atomic_fetch_add(&pool.done, 1);
        uint64_t now = __rdtsc();
        quickest = now - began < quickest ? now - began : quickest;
        began = now;
    }
    uint64_t enough = quickest == UINT64_MAX ? LEAST_TICKS : LEAST_TICKS + 2 * quickest;
    for (int spins = 0; atomic_load(&pool.done) < job->num_pieces; wait_a_moment(&spins))
        if (__rdtsc() - began > enough) take_over(job, round);
}

static void share(const Job *job) {
    if (!pool.num_helpers || job->num_pieces < 2) {
        for (int piece = 0; piece < job->num_pieces; piece++) do_piece(job, piece);
        return;
    }
    int32_t round = atomic_load(&pool.round) + 1;
    atomic_store(&pool.next, named(round, INT32_MAX)); /* nothing to take until all is written */
    pool.job = *job;
    atomic_store(&pool.done, 0);
    atomic_store(&pool.next, named(round, 0));
    atomic_store(&pool.round, round);
    if (atomic_load(&pool.sleeping)) futex(&pool.round, FUTEX_WAKE, INT32_MAX);
    do_together(job, round);
}

/* Work that changes things in place. */
static void share_work(void (*work)(const void *, int), const void *task, size_t num_bytes, int num_pieces) {
    Job job = {.work = work, .num_pieces = num_pieces};
    memcpy(job.task, task, num_bytes);
    share(&job);
}

/* Work whose pieces have places of their own, the first one's being the largest. */
static void share_filling(void (*fill)(const void *, int, float *, size_t), Place (*place)(const void *, int), const void *task,
                          size_t num_bytes, int num_pieces) {
    Place largest = place(task, 0);
    Job job = {.fill = fill, .place = place, .num_pieces = num_pieces, .aside = largest.count * largest.width <= ASIDE};
    memcpy(job.task, task, num_bytes);
    share(&job);
}

/* Once no helper reads the caller's memory any more. */
static void finish(void) {
    int spins = 0;
    for (int i = 0; i < pool.num_helpers; i++)
        while (atomic_load(&pool.helpers[i].reading)) wait_a_moment(&spins);
}

static int start_threads(int threads, long spins) {
    pool.spins = spins;
    while (pool.num_helpers < threads - 1 && pool.num_helpers < MAX_HELPERS) {
        Helper *next = pool.helpers + pool.num_helpers;
        if (pthread_create(&next->thread, 0, helper, next)) break;
        pool.num_helpers++;
    }
    return pool.num_helpers + 1;
}
