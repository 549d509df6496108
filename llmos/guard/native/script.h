/* What the init of a sandbox is to do, as it comes in a job (script.py). */
#ifndef LLMOS_SCRIPT_H
#define LLMOS_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum joiner { FIRST, AND, OR, THEN, NUM_JOINERS };
enum redirection { FROM, TO, ADD_TO, SAME_AS, NUM_REDIRECTIONS };

struct redirect {
    uint32_t fd, op;
    char *target;
};

struct command {
    char *program, **argv, **env; /* lists end in NULL */
    struct redirect *redirects;
    uint32_t num_redirects;
};

struct pipe {
    uint32_t joiner, num_commands;
    char *cd; /* a change of folder, or NULL */
    struct command *commands;
};

struct script {
    char *path, *cwd, **env;
    struct pipe *pipes;
    uint32_t num_pipes;
};

/* Whether the bytes are a script; its texts are theirs. */
bool read_script(unsigned char *bytes, size_t size, struct script *script);

#endif
