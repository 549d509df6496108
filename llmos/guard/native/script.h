/* What the init of a sandbox does: programs, their pipes, redirections, changes of folder (init.py, in C). */
#ifndef LLMOS_SCRIPT_H
#define LLMOS_SCRIPT_H

#include <stddef.h>

/* Carry out a script (script.py says what it is in bytes), tell how it ended, and end. Returns where it is broken,
 * and nothing of it was started. */
void run_script(unsigned char *bytes, size_t size);

#endif
