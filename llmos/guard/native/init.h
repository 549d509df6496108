/* Process 1 of a sandbox: programs, their pipes, redirections, changes of folder (init.py, in C). */
#ifndef LLMOS_INIT_H
#define LLMOS_INIT_H

#include <stddef.h>

/* Carry out a script, tell how it ended, and end. Returns where it is broken, and nothing of it was started. */
void run_script(unsigned char *bytes, size_t size);

#endif
