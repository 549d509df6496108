#define _GNU_SOURCE
#include "part.h"

#include <string.h>
#include <sys/syscall.h>

enum { MAGIC = 0x31736d6c };

struct header {
    uint32_t magic, bytes, steps, data;
};

const long call_numbers[] = {
#define CALL(name) SYS_##name,
#include "calls.h"
#undef CALL
};

#define NUM_CALLS (sizeof call_numbers / sizeof *call_numbers)

uint32_t offset_of(uint64_t value)
{
    return (uint32_t)value;
}

uint32_t length_of(uint64_t value)
{
    return (uint32_t)(value >> 32);
}

size_t read_part(const unsigned char *bytes, size_t left, struct part *part)
{
    struct header header;
    if (left < sizeof header)
        return 0;
    memcpy(&header, bytes, sizeof header);
    uint64_t size = sizeof header + (uint64_t)header.steps * sizeof(struct step) + header.data;
    if (header.magic != MAGIC || header.bytes != size || size > left || size % 8 || header.steps >= NOWHERE)
        return 0;
    if (header.data < 8 || bytes[size - 1]) /* every text in it ends in it */
        return 0;
    part->steps = (const struct step *)(const void *)(bytes + sizeof header);
    part->data = (unsigned char *)bytes + size - header.data;
    part->num_steps = header.steps;
    part->num_data = header.data;
    return size;
}

static bool is_place(const struct step *step, int number, uint32_t least, uint32_t most)
{
    uint32_t length = length_of(step->args[number]);
    return step->kinds[number] == DATA && length >= least && length <= most;
}

static bool has_sound_arguments(const struct step *step, const struct part *part)
{
    for (int number = 0; number < NUM_ARGS; number++) {
        uint64_t value = step->args[number];
        if (step->kinds[number] >= NUM_KINDS)
            return false;
        if (step->kinds[number] == REGISTER && value >= MAX_REGISTERS)
            return false;
        if (step->kinds[number] == DATA && (uint64_t)offset_of(value) + length_of(value) > part->num_data)
            return false;
    }
    return true;
}

static bool is_sound(const struct step *step, uint32_t at, const struct part *part)
{
    bool lands = step->target != NOWHERE;
    if (step->op >= NUM_OPS || !has_sound_arguments(step, part))
        return false;
    if (step->layer >= part->num_data || step->what >= part->num_data)
        return false;
    if (step->into != NOWHERE && step->into >= MAX_REGISTERS)
        return false;
    if (lands && (step->op == AGAIN ? step->target >= at : step->target <= at || step->target > part->num_steps))
        return false;
    switch (step->op) {
    case CALL:
        return step->call < NUM_CALLS;
    case STORE:
        return is_place(step, 1, 1, 8);
    case DECIMAL:
        return is_place(step, 1, 2, 32);
    case LOAD:
        return is_place(step, 0, 1, 8) && step->into != NOWHERE;
    case SET:
        return step->into != NOWHERE;
    case JUMP:
    case UNLESS:
    case AGAIN:
        return lands;
    case RUN:
        return is_place(step, 0, 0, UINT32_MAX);
    default:
        return true;
    }
}

bool is_sound_part(const struct part *part)
{
    for (uint32_t number = 0; number < part->num_steps; number++)
        if (!is_sound(&part->steps[number], number, part))
            return false;
    return true;
}
