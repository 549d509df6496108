/* A job: parts of steps, carried out one after the other. What they are in bytes stands in machine.py. */
#ifndef LLMOS_PROGRAM_H
#define LLMOS_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "part.h"

enum { STDIN, STDOUT, STDERR, STATUS, KILLS, USERNS, LAUNCHER, OWN_PROC, PROC, TERMINALS };

extern int64_t registers[MAX_REGISTERS];

/* What is amiss, as a line of JSON for the broker; empty while nothing is. */
extern char amiss[8192];

/* Say what is amiss, unless something was before. `layer` and `what` are fit for JSON; `number`: of an error, or 0. */
void go_amiss(const char *layer, const char *what, int number);

/* Whether `job` is whole and all that it refers to lies within it. It is aligned to 8 bytes. A job of a call ends in
 * RUN, and what a fork does before it (`preparing`) has none. */
bool sound(const unsigned char *job, size_t size, bool preparing);

/* Carry out a sound job. Returns where it has come to its end or something is amiss; a script that was run does not
 * return. */
void carry_out(unsigned char *job, size_t size);

/* Write a line for the broker; who has gone does not hear it. */
void tell(int fd, const char *line);

#endif
