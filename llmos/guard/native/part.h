/* A part of a job: what it is in bytes (machine.py), and whether it is whole. */
#ifndef LLMOS_PART_H
#define LLMOS_PART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NOWHERE = 0xffff, ANY = 0xff, NUM_ARGS = 6, MAX_EXPECTED = 8, MAX_REGISTERS = 4096 };
enum op { CALL, STORE, LOAD, SET, JUMP, UNLESS, AGAIN, FAIL, END, RUN, DECIMAL, NUM_OPS };
enum kind { NUMBER, REGISTER, DATA, NUM_KINDS };

struct step {
    uint8_t op, call;
    uint16_t into, target, spare;
    uint8_t kinds[NUM_ARGS], spare_kinds[2];
    uint8_t expected[MAX_EXPECTED];
    uint32_t layer, what;
    uint64_t args[NUM_ARGS];
};

_Static_assert(sizeof(struct step) == 80, "as in machine.py");

/* A part in memory. */
struct part {
    const struct step *steps;
    unsigned char *data;
    uint32_t num_steps, num_data;
};

/* Numbers of the system calls, by their places in calls.h. */
extern const long call_numbers[];

/* The part at the beginning of these bytes; the size of it, or 0 where it is broken. */
size_t read_part(const unsigned char *bytes, size_t left, struct part *part);

/* Whether all that its steps refer to lies within it. */
bool is_sound_part(const struct part *part);

/* An argument of kind DATA: where it begins in the data, and its bytes. */
uint32_t offset_of(uint64_t value);
uint32_t length_of(uint64_t value);

#endif
