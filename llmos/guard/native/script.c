#include "script.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    unsigned char *at;
    size_t left;
    bool broken;
};

static uint32_t read_number(struct reader *reader)
{
    uint32_t value = 0;
    if (reader->left < sizeof value) {
        reader->broken = true;
        return 0;
    }
    memcpy(&value, reader->at, sizeof value);
    reader->at += sizeof value;
    reader->left -= sizeof value;
    return value;
}

static uint32_t read_below(struct reader *reader, uint32_t end)
{
    uint32_t value = read_number(reader);
    reader->broken |= value >= end;
    return value;
}

/* How many there are of something, each of them at least 4 bytes. */
static uint32_t read_count(struct reader *reader)
{
    uint32_t count = read_number(reader);
    if (count > reader->left / 4)
        reader->broken = true;
    return reader->broken ? 0 : count;
}

static char *read_text(struct reader *reader)
{
    uint32_t length = read_number(reader);
    char *text = (char *)reader->at;
    if (reader->broken || length >= reader->left || text[length] || strlen(text) != length) {
        reader->broken = true;
        return "";
    }
    reader->at += length + 1;
    reader->left -= length + 1;
    return text;
}

static void *room_for(struct reader *reader, size_t count, size_t size)
{
    void *room = calloc(count + 1, size);
    reader->broken |= !room;
    return room;
}

static char **read_texts(struct reader *reader)
{
    uint32_t count = read_count(reader);
    char **texts = room_for(reader, count, sizeof *texts);
    for (uint32_t number = 0; number < count && !reader->broken; number++)
        texts[number] = read_text(reader);
    return texts;
}

static void read_command(struct reader *reader, struct command *command)
{
    command->program = read_text(reader);
    command->argv = read_texts(reader);
    if (reader->broken || !*command->argv) {
        reader->broken = true;
        return;
    }
    if (!*command->program)
        command->program = *command->argv;
    command->num_redirects = read_count(reader);
    command->redirects = room_for(reader, command->num_redirects, sizeof *command->redirects);
    for (uint32_t number = 0; number < command->num_redirects && !reader->broken; number++) {
        command->redirects[number].fd = read_below(reader, INT_MAX);
        command->redirects[number].op = read_below(reader, NUM_REDIRECTIONS);
        command->redirects[number].target = read_text(reader);
    }
    command->env = read_texts(reader);
}

static void read_pipe(struct reader *reader, struct pipe *pipe)
{
    pipe->joiner = read_below(reader, NUM_JOINERS);
    if (read_below(reader, 2)) {
        pipe->cd = read_text(reader);
        return;
    }
    pipe->num_commands = read_count(reader);
    pipe->commands = room_for(reader, pipe->num_commands, sizeof *pipe->commands);
    reader->broken |= !pipe->num_commands;
    for (uint32_t number = 0; number < pipe->num_commands && !reader->broken; number++)
        read_command(reader, &pipe->commands[number]);
}

bool read_script(unsigned char *bytes, size_t size, struct script *script)
{
    struct reader reader = {.at = bytes, .left = size};
    script->path = read_text(&reader);
    script->cwd = read_text(&reader);
    script->env = read_texts(&reader);
    script->num_pipes = read_count(&reader);
    script->pipes = room_for(&reader, script->num_pipes, sizeof *script->pipes);
    for (uint32_t number = 0; number < script->num_pipes && !reader.broken; number++)
        read_pipe(&reader, &script->pipes[number]);
    return !reader.broken && !reader.left;
}
