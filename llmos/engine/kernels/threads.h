#pragma once
/* Work shared among a few threads that live as long as the process. */

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_THREADS 8
#define PATIENCE 4000
#define MIN_PENALTY 16
#define MAX_PENALTY 1024

/* Work is taken in small pieces from one counter, so a helper that the kernel has put aside delays the rest
   by one piece. Helpers wait a moment by spinning (the next product is some microseconds away), then sleep. */

typedef void (*Work)(const void *, int);

static struct {
    pthread_t helpers[MAX_THREADS];
    int num_helpers;
    _Atomic(int32_t) round, sleeping;
    Work work;
    const void *task;
    int num_pieces;
    _Atomic(int64_t) next; /* the round above, the piece below: a late helper cannot take a piece of another round */
    _Atomic(int32_t) done;
    int alone, penalty; /* rounds still to be done without helpers; how many the next time */
} pool = {.penalty = MIN_PENALTY};

static void futex(_Atomic(int32_t) *at, int operation, int32_t value) {
    syscall(SYS_futex, (int32_t *)at, operation | FUTEX_PRIVATE_FLAG, value, 0, 0, 0);
}

static void take_pieces(int32_t round) {
    for (;;) {
        int64_t at = atomic_load(&pool.next);
        if ((int32_t)(at >> 32) != round || (int32_t)at >= pool.num_pieces) return;
        if (!atomic_compare_exchange_weak(&pool.next, &at, at + 1)) continue;
        pool.work(pool.task, (int32_t)at);
        atomic_fetch_add(&pool.done, 1);
    }
}

static void *helper(void *spins) {
    int32_t seen = 0;
    for (;;) {
        for (long i = 0; i < (long)(intptr_t)spins && atomic_load(&pool.round) == seen; i++) _mm_pause();
        while (atomic_load(&pool.round) == seen) {
            atomic_fetch_add(&pool.sleeping, 1);
            futex(&pool.round, FUTEX_WAIT, seen);
            atomic_fetch_sub(&pool.sleeping, 1);
        }
        seen = atomic_load(&pool.round);
        take_pieces(seen);
    }
    return 0;
}

/* A helper that is not done by now has been put aside for another process. Then the next rounds are done alone:
   waiting for it again and again is what makes a barrier beside busy neighbours so slow. */
static void await_helpers(int num_pieces) {
    int spins = 0;
    while (atomic_load(&pool.done) < num_pieces) {
        if (spins++ < PATIENCE) _mm_pause();
        else sched_yield();
    }
    if (spins <= PATIENCE) pool.penalty = MIN_PENALTY;
    else {
        pool.alone = pool.penalty;
        pool.penalty = pool.penalty < MAX_PENALTY ? 2 * pool.penalty : MAX_PENALTY;
    }
}

static void share(Work work, const void *task, int num_pieces) {
    if (!pool.num_helpers || num_pieces < 2 || (pool.alone && pool.alone--)) {
        for (int piece = 0; piece < num_pieces; piece++) work(task, piece);
        return;
    }
    int32_t round = atomic_load(&pool.round) + 1;
    atomic_store(&pool.next, (int64_t)round << 32 | INT32_MAX); /* nothing to take until all is written */
    pool.work = work, pool.task = task, pool.num_pieces = num_pieces;
    atomic_store(&pool.done, 0);
    atomic_store(&pool.next, (int64_t)round << 32);
    atomic_store(&pool.round, round);
    if (atomic_load(&pool.sleeping)) futex(&pool.round, FUTEX_WAKE, INT32_MAX);
    take_pieces(round);
    await_helpers(num_pieces);
}

static int start_threads(int threads, long spins) {
    while (pool.num_helpers < threads - 1 && pool.num_helpers < MAX_THREADS) {
        if (pthread_create(&pool.helpers[pool.num_helpers], 0, helper, (void *)(intptr_t)spins)) break;
        pool.num_helpers++;
    }
    return pool.num_helpers + 1;
}
