#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "init.h"
#include "part.h"

#if __SIZEOF_POINTER__ != 8 || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "steps hold 64 bits, the lower bytes first"
#endif

enum { AGAIN_NS = 2000000, MOST_AGAIN = 1500 };

int64_t registers[MAX_REGISTERS];
char amiss[8192];
static unsigned times_again;

void tell(int fd, const char *line)
{
    ssize_t written = write(fd, line, strlen(line));
    (void)written;
}

void go_amiss(const char *layer, const char *what, int number)
{
    if (*amiss)
        return;
    const char *colon = number ? ": " : "", *error = number ? strerror(number) : "";
    int length = snprintf(amiss, sizeof amiss, "{\"layer\": \"%s\", \"error\": \"%s%s%s\"}\n", layer, what, colon, error);
    if (length < 0 || (size_t)length >= sizeof amiss)
        snprintf(amiss, sizeof amiss, "{\"layer\": \"launcher\", \"error\": \"an error too long to be told\"}\n");
}

static unsigned runs_in(const struct part *part)
{
    unsigned runs = 0;
    for (uint32_t number = 0; number < part->num_steps; number++)
        runs += part->steps[number].op == RUN;
    return runs;
}

bool sound(const unsigned char *job, size_t size, bool preparing)
{
    struct part part = {0};
    unsigned runs = 0;
    for (size_t at = 0, length; at < size; at += length) {
        length = read_part(job + at, size - at, &part);
        if (!length || !is_sound_part(&part))
            return false;
        runs += runs_in(&part);
    }
    if (preparing)
        return !runs;
    return runs == 1 && part.num_steps && part.steps[part.num_steps - 1].op == RUN;
}

static uint64_t value_of(const struct step *step, int number, const struct part *part)
{
    uint64_t value = step->args[number];
    switch (step->kinds[number]) {
    case REGISTER:
        return (uint64_t)registers[value];
    case DATA:
        return (uint64_t)(uintptr_t)(part->data + offset_of(value));
    default:
        return value;
    }
}

static bool expects(const struct step *step, int number)
{
    for (int each = 0; each < MAX_EXPECTED; each++)
        if (step->expected[each] && (step->expected[each] == ANY || step->expected[each] == number))
            return true;
    return false;
}

static const char *text_at(const struct part *part, uint32_t offset)
{
    return (const char *)part->data + offset;
}

static void fail(const struct part *part, const struct step *step, int number)
{
    go_amiss(step->layer ? text_at(part, step->layer) : "launcher", text_at(part, step->what), number);
}

/* One system call; the number of the step to go on at. */
static uint32_t call(const struct part *part, const struct step *step, uint32_t next)
{
    long args[NUM_ARGS];
    for (int number = 0; number < NUM_ARGS; number++)
        args[number] = (long)value_of(step, number, part);
    long result = syscall(call_numbers[step->call], args[0], args[1], args[2], args[3], args[4], args[5]);
    if (step->into != NOWHERE)
        registers[step->into] = result;
    if (result != -1)
        return next;
    if (!expects(step, errno)) {
        fail(part, step, errno);
        return next;
    }
    return step->target == NOWHERE ? next : step->target;
}

static void store(const struct part *part, const struct step *step)
{
    uint64_t value = value_of(step, 0, part);
    memcpy(part->data + offset_of(step->args[1]), &value, length_of(step->args[1]));
}

static void load(const struct part *part, const struct step *step)
{
    uint64_t value = 0;
    memcpy(&value, part->data + offset_of(step->args[0]), length_of(step->args[0]));
    registers[step->into] = (int64_t)value;
}

static void write_decimal(const struct part *part, const struct step *step)
{
    size_t room = length_of(step->args[1]);
    int length = snprintf((char *)part->data + offset_of(step->args[1]), room, "%lld",
                          (long long)value_of(step, 0, part));
    if (length < 0 || (size_t)length >= room)
        fail(part, step, EOVERFLOW);
}

static uint32_t again(const struct part *part, const struct step *step)
{
    if (++times_again > MOST_AGAIN)
        fail(part, step, EBUSY);
    nanosleep(&(struct timespec){.tv_nsec = AGAIN_NS}, NULL);
    return step->target;
}

/* What of the last layers is missing, by asking the kernel; NULL where nothing is. Whatever a program was made of:
 * no command runs without them. */
static const char *unsealed(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[2] = {{0}};
    if (getpid() != 1)
        return "not the first process of its namespace";
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
        return "new privileges could be had";
    if (syscall(SYS_capget, &header, sets))
        return "capabilities cannot be looked at";
    for (int half = 0; half < 2; half++)
        if (sets[half].effective || sets[half].permitted || sets[half].inheritable)
            return "capabilities are left";
    if (prctl(PR_GET_DUMPABLE) != 0)
        return "the first process could be looked into";
    if (prctl(PR_GET_SECCOMP) != SECCOMP_MODE_FILTER)
        return "there is no system call filter";
    unsigned long inside, outside = 0;
    FILE *map = fopen("/proc/self/uid_map", "re");
    int found = map ? fscanf(map, "%lu %lu", &inside, &outside) : 0;
    if (map)
        fclose(map);
    return found == 2 && outside ? NULL : "it could be host uid 0";
}

static void run(const struct part *part, const struct step *step)
{
    const char *missing = unsealed();
    if (missing)
        go_amiss("launcher", missing, 0);
    else
        run_script(part->data + offset_of(step->args[0]), length_of(step->args[0]));
}

static void carry_out_part(const struct part *part)
{
    uint32_t at = 0;
    while (at < part->num_steps && !*amiss) {
        const struct step *step = &part->steps[at];
        bool equal;
        at++;
        switch (step->op) {
        case CALL:
            at = call(part, step, at);
            break;
        case STORE:
            store(part, step);
            break;
        case LOAD:
            load(part, step);
            break;
        case SET:
            registers[step->into] = (int64_t)value_of(step, 0, part);
            break;
        case JUMP:
        case UNLESS:
            equal = (value_of(step, 0, part) & value_of(step, 1, part)) == value_of(step, 2, part);
            if (equal == (step->op == JUMP))
                at = step->target;
            break;
        case AGAIN:
            at = again(part, step);
            break;
        case DECIMAL:
            write_decimal(part, step);
            break;
        case RUN:
            run(part, step);
            break;
        case FAIL:
            fail(part, step, 0);
            break;
        default: /* END */
            _exit(125);
        }
    }
}

void carry_out(unsigned char *job, size_t size)
{
    struct part part;
    for (size_t at = 0, length; at < size && !*amiss; at += length) {
        length = read_part(job + at, size - at, &part);
        if (!length || !is_sound_part(&part)) { /* a call has written further than it said */
            go_amiss("launcher", "the job has changed", 0);
            return;
        }
        carry_out_part(&part);
    }
}
