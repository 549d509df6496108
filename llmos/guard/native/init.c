#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program.h"
#include "script.h"

enum { NOT_FOUND = 127, NOT_EXECUTABLE = 126, FAILED = 1 };
enum { STATUS_FD = 3, KILLS_FD = 4, FIRST_CLOSED_FD = 3 };

static const char SHELL[] = "/bin/sh"; /* what runs a script without `#!`, as in execvp(3) */

/* --- environment -------------------------------------------------------------------------------- */

static void *must(void *room)
{
    if (!room) {
        tell(STATUS_FD, "{\"layer\": \"launcher\", \"error\": \"out of memory\"}\n");
        _exit(125);
    }
    return room;
}

static size_t count_of(char **texts)
{
    size_t count = 0;
    while (texts[count])
        count++;
    return count;
}

/* Put NAME=value into the list, in the place of what has the same name, or at its end. */
static void put(char **env, char *pair)
{
    const char *equals = strchr(pair, '=');
    if (!equals)
        return;
    size_t length = (size_t)(equals - pair) + 1;
    while (*env && strncmp(*env, pair, length))
        env++;
    *env = pair;
}

/* The folder one is in and the one before, as NAME=value. */
static char *here, *before;

static char *pair_of(const char *name, const char *value)
{
    char *pair;
    return must(asprintf(&pair, "%s=%s", name, value) < 0 ? NULL : pair);
}

static char **environment(const struct script *script, const struct command *command)
{
    char **env = must(calloc(count_of(script->env) + count_of(command->env) + 3, sizeof *env));
    for (char **each = script->env; *each; each++)
        put(env, *each);
    put(env, here);
    if (before)
        put(env, before);
    for (char **each = command->env; *each; each++)
        put(env, *each);
    return env;
}

/* --- one command -------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    if (length < 0)
        return;
    ssize_t written = write(2, text, (size_t)length);
    (void)written;
    free(text);
}

/* Say why, as bash does; the exit code that stands for it. */
static int cannot_start(const struct command *command, int error)
{
    bool missing = error == ENOENT || error == ENOTDIR;
    const char *name = command->argv[0];
    struct stat found;
    if (missing && !strchr(name, '/'))
        say("%s: command not found\n", name);
    else if (!stat(command->program, &found) && S_ISDIR(found.st_mode))
        say("%s: Is a directory\n", name);
    else
        say("%s: %s\n", name, strerror(error));
    return missing ? NOT_FOUND : NOT_EXECUTABLE;
}

/* sh PROGRAM ARGUMENTS */
static char **by_the_shell(const struct command *command)
{
    size_t count = count_of(command->argv);
    char **argv = must(calloc(count + 2, sizeof *argv));
    argv[0] = "sh";
    argv[1] = command->program;
    for (size_t number = 1; number < count; number++)
        argv[number + 1] = command->argv[number];
    return argv;
}

/* Become the program; the exit code where that fails. */
static int become(const struct command *command, char **env)
{
    environ = env;
    execvp(command->program, command->argv);
    if (errno == ENOEXEC)
        execv(SHELL, by_the_shell(command));
    return cannot_start(command, errno);
}

static bool redirected(const struct redirect *redirect)
{
    static const int flags[] = {
        [FROM] = O_RDONLY, [TO] = O_WRONLY | O_CREAT | O_TRUNC, [ADD_TO] = O_WRONLY | O_CREAT | O_APPEND};
    int fd = (int)redirect->fd, opened;
    if (redirect->op == SAME_AS) {
        if (dup2(atoi(redirect->target), fd) >= 0)
            return true;
        say("%s\n", strerror(errno));
        return false;
    }
    opened = open(redirect->target, flags[redirect->op] | O_CLOEXEC, 0666);
    if (opened < 0) {
        say("%s: %s\n", redirect->target, strerror(errno));
        return false;
    }
    if (opened == fd)
        return fcntl(fd, F_SETFD, 0) == 0;
    if (dup2(opened, fd) < 0) {
        say("%s\n", strerror(errno));
        return false;
    }
    close(opened);
    return true;
}

/* In a child: wire the streams and become the program; the exit code where that fails. */
static int wired(const struct command *command, char **env, int from, int to)
{
    if (dup2(from, 0) < 0 || dup2(to, 1) < 0)
        return NOT_EXECUTABLE;
    syscall(SYS_close_range, FIRST_CLOSED_FD, ~0U, 0); /* or `>&7` would reach what the init itself holds open */
    for (uint32_t number = 0; number < command->num_redirects; number++)
        if (!redirected(&command->redirects[number]))
            return FAILED;
    return become(command, env);
}

static int spawned(pid_t *pid, const struct command *command, char **env, int from, int to)
{
    posix_spawn_file_actions_t actions;
    int error = posix_spawn_file_actions_init(&actions);
    if (!error && from != 0)
        error = posix_spawn_file_actions_adddup2(&actions, from, 0);
    if (!error && to != 1)
        error = posix_spawn_file_actions_adddup2(&actions, to, 1);
    if (!error)
        error = posix_spawnp(pid, command->program, &actions, NULL, command->argv, env);
    if (error == ENOEXEC)
        error = posix_spawn(pid, SHELL, &actions, NULL, by_the_shell(command), env);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

/* A pid, or minus the exit code of what could not be started. With redirections it takes a process of its own to
 * open them in, since opening may wait; without, the program is spawned, which copies nothing of us. */
static pid_t start_one(const struct script *script, const struct command *command, int from, int to)
{
    char **env = environment(script, command);
    pid_t pid = -1;
    int error = 0;
    if (!command->num_redirects) {
        error = spawned(&pid, command, env, from, to);
    } else {
        pid = fork();
        if (pid == 0)
            _exit(wired(command, env, from, to));
        error = pid < 0 ? errno : 0;
    }
    free(env);
    return error ? -cannot_start(command, error) : pid;
}

/* --- pipes -------------------------------------------------------------------------------------- */

/* Start all of them, each with its end of the pipe on either side. */
static void start(const struct script *script, const struct pipe *pipe, pid_t *started)
{
    int from = 0, ends[2];
    uint32_t last = pipe->num_commands - 1;
    for (uint32_t number = 0; number <= last; number++) {
        if (number < last && pipe2(ends, O_CLOEXEC)) {
            tell(STATUS_FD, "{\"layer\": \"launcher\", \"error\": \"no pipe can be made\"}\n");
            _exit(125);
        }
        started[number] = start_one(script, &pipe->commands[number], from, number < last ? ends[1] : 1);
        if (from)
            close(from);
        if (number < last) {
            close(ends[1]);
            from = ends[0];
        }
    }
}

static uint32_t still_running(pid_t *started, uint32_t count, pid_t ended)
{
    uint32_t left = 0;
    for (uint32_t number = 0; number < count; number++) {
        if (started[number] == ended)
            started[number] = 0;
        left += started[number] > 0;
    }
    return left;
}

/* Until all of them have ended, whoever else ends meanwhile; the last one's exit code. */
static int wait_for(pid_t *started, uint32_t count)
{
    pid_t last = started[count - 1], ended;
    int code = last < 0 ? -last : 0, status;
    while (still_running(started, count, 0)) {
        ended = waitpid(-1, &status, 0);
        if (ended < 0 && errno == ECHILD)
            break;
        if (ended < 0)
            continue;
        still_running(started, count, ended);
        if (ended != last)
            continue;
        code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        if (WIFSIGNALED(status) && WTERMSIG(status) != SIGPIPE && WTERMSIG(status) != SIGINT)
            say("%s\n", strsignal(WTERMSIG(status))); /* of those two a shell says nothing */
    }
    return code;
}

/* `path` without `.`, `..` and slashes that say nothing, in place (posixpath.normpath): it begins with a slash. */
static void make_normal(char *path)
{
    size_t root = path[1] == '/' && path[2] != '/' ? 2 : 1; /* POSIX gives two a meaning */
    char *out = path + root, *in = path;
    while (*in) {
        size_t length = strcspn(in, "/");
        if (length == 2 && !memcmp(in, "..", 2)) {
            while (out > path + root && *--out != '/')
                ;
        } else if (length && !(length == 1 && *in == '.')) {
            if (out > path + root)
                *out++ = '/';
            memmove(out, in, length);
            out += length;
        }
        in += length + (in[length] == '/');
    }
    *out = 0;
}

/* `cd`, which keeps the name it came by: `..` after a link leads back to where one was. */
static int change_folder(const char *target)
{
    char *path, *current = strchr(here, '=') + 1;
    bool at_root = !strcmp(current, "/");
    int length = *target == '/' ? asprintf(&path, "%s", target)
                                : asprintf(&path, "%s/%s", at_root ? "" : current, target);
    must(length < 0 ? NULL : path);
    make_normal(path);
    if (chdir(path)) {
        say("cd: %s: %s\n", target, strerror(errno));
        free(path);
        return FAILED;
    }
    if (before)
        free(before);
    before = pair_of("OLDPWD", current);
    free(here);
    here = pair_of("PWD", path);
    free(path);
    return 0;
}

/* Kill what was left in the background and wait until the last of it is gone. */
static void end_the_rest(void)
{
    do
        kill(-1, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR);
}

static int carried_out(const struct script *script)
{
    int code = 0;
    for (uint32_t number = 0; number < script->num_pipes; number++) {
        const struct pipe *pipe = &script->pipes[number];
        if ((pipe->joiner == AND && code) || (pipe->joiner == OR && !code))
            continue;
        if (pipe->cd) {
            code = change_folder(pipe->cd);
            continue;
        }
        pid_t *started = must(calloc(pipe->num_commands, sizeof *started));
        start(script, pipe, started);
        code = wait_for(started, pipe->num_commands);
        free(started);
    }
    end_the_rest();
    return code;
}

/* How many processes the kernel has ended for want of memory, by the open file that counts them. */
static long memory_kills(void)
{
    char text[4096];
    ssize_t length = pread(KILLS_FD, text, sizeof text - 1, 0);
    text[length > 0 ? length : 0] = 0;
    const char *name = "oom_kill ", *line = strncmp(text, name, strlen(name)) ? strstr(text, "\noom_kill ") : text;
    return line ? atol(strchr(line, ' ')) : 0;
}

void run_script(unsigned char *bytes, size_t size)
{
    struct script script = {0};
    char line[128];
    if (!read_script(bytes, size, &script)) {
        go_amiss("launcher", "the script is broken", 0);
        return;
    }
    here = pair_of("PWD", script.cwd);
    if (setenv("PATH", script.path, 1)) /* where a program without a path is looked for */
        must(NULL);
    int code = carried_out(&script);
    for (int fd = 0; fd < STATUS_FD; fd++)
        close(fd);
    snprintf(line, sizeof line, "{\"exit-code\": %d%s}\n", code, memory_kills() ? ", \"out-of-memory\": true" : "");
    tell(STATUS_FD, line);
    _exit(0);
}
