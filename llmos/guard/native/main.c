/* Where the forks of the launcher come from, and what each of them is: it puts a sandbox around itself by the steps it
 * is given, and is the sandbox's init. The same in Python: nursery.py, carry.py, init.py.
 *
 *     forks SOCKET LAUNCHER      descriptors: the launcher's requests, and a pidfd of it
 *     forks --version
 *     forks --check < FILE       jobs, each a multiple of 8 bytes, after its length (u64): for each a line
 *
 * At its start it says HELLO on the socket. What is asked and answered there stands in nursery.py. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "program.h"

#define HELLO "llmos forks 1"

enum { SOCKET_FD = 3, LAUNCHER_FD = 4, FIRST_FREE_FD = 16, MAX_JOB_FDS = 7, MIN_JOB_FDS = 5 };
enum { MAX_REQUEST_BYTES = 1 << 14, MAX_JOB_BYTES = 1 << 26, SLACK_BYTES = 1 << 16 };

/* From here on the kernel sees to it; the launcher may have ended before. */
static void die_with_launcher(void)
{
    struct pollfd launcher = {.fd = LAUNCHER_FD, .events = POLLIN};
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) || poll(&launcher, 1, 0) != 0)
        _exit(125);
}

/* One message and the descriptors that came with it; its length, 0 at the end, or -1. */
static ssize_t receive(int sock, void *bytes, size_t room, int *fds, size_t *num_fds)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(MAX_JOB_FDS * sizeof(int))];
    } rights;
    struct iovec vector = {.iov_base = bytes, .iov_len = room};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof rights};
    ssize_t length;
    do
        length = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    *num_fds = 0;
    if (length < 0 || message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        return -1;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
        *num_fds = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(header), *num_fds * sizeof(int));
    }
    return length;
}

/* The job in memory, zeros behind it; NULL where that cannot be. */
static unsigned char *read_job(int fd, size_t *size)
{
    struct stat found;
    if (fstat(fd, &found) || found.st_size <= 0 || found.st_size > MAX_JOB_BYTES)
        return NULL;
    *size = (size_t)found.st_size;
    unsigned char *job = mmap(NULL, *size + SLACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (job == MAP_FAILED)
        return NULL;
    for (size_t at = 0; at < *size;) {
        ssize_t length = pread(fd, job + at, *size - at, (off_t)at);
        if (length <= 0)
            return NULL;
        at += (size_t)length;
    }
    return job;
}

static void carry_out_job(int fd)
{
    size_t size = 0;
    unsigned char *job = read_job(fd, &size);
    if (job && sound(job, size, false))
        carry_out(job, size);
    else
        go_amiss("launcher", "the job is broken", 0);
}

/* In the fork: get ready, and wait for the job. What is amiss is told when there is somebody to tell. */
_Noreturn static void stand_by(int sock, unsigned char *preparing, size_t size)
{
    int fds[MAX_JOB_FDS];
    unsigned char given[2]; /* whether memory kills are counted, whether files are mapped */
    size_t num_fds;
    die_with_launcher();
    registers[LAUNCHER] = LAUNCHER_FD;
    if (sound(preparing, size, true))
        carry_out(preparing, size);
    else
        go_amiss("launcher", "what comes before the job is broken", 0);
    ssize_t length = receive(sock, given, sizeof given, fds, &num_fds);
    close(sock);
    if (length != sizeof given || num_fds != MIN_JOB_FDS + (size_t)(given[0] != 0) + (given[1] != 0))
        _exit(0);
    for (int number = STDIN; number <= STATUS; number++)
        registers[number] = fds[number + 1];
    if (given[0])
        registers[KILLS] = fds[MIN_JOB_FDS];
    if (given[1])
        registers[USERNS] = fds[num_fds - 1];
    if (!*amiss)
        carry_out_job(fds[0]);
    tell((int)registers[STATUS], amiss);
    _exit(125);
}

/* A fork in new namespaces, a child of the launcher. */
static pid_t born(uint32_t namespaces)
{
    return (pid_t)syscall(SYS_clone, (unsigned long)namespaces | CLONE_PARENT | SIGCHLD, 0L, 0L, 0L, 0L);
}

/* Until the launcher is gone. A request: the namespaces (u32), four bytes that say nothing, and what a fork is to do
 * before it has a job. */
_Noreturn static void serve(void)
{
    static _Alignas(8) unsigned char request[MAX_REQUEST_BYTES];
    memset(registers, 0xff, sizeof registers); /* -1: there is none */
    for (;;) {
        int fds[MAX_JOB_FDS];
        size_t num_fds;
        char answer[24];
        ssize_t length = receive(SOCKET_FD, request, sizeof request, fds, &num_fds);
        if (length < 8 || num_fds != 1)
            _exit(length > 0 ? 125 : 0);
        uint32_t namespaces;
        memcpy(&namespaces, request, sizeof namespaces);
        pid_t pid = born(namespaces);
        if (pid == 0) {
            close(SOCKET_FD);
            stand_by(fds[0], request + 8, (size_t)length - 8);
        }
        snprintf(answer, sizeof answer, "%d", pid < 0 ? -errno : pid);
        close(fds[0]);
        if (send(SOCKET_FD, answer, strlen(answer), MSG_NOSIGNAL) < 0)
            _exit(0);
    }
}

/* As a process is that nobody has told anything: an ignored signal stays ignored across exec. */
static void reset_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
}

/* Which of the jobs on stdin would be carried out. */
static int check(void)
{
    uint64_t size;
    while (fread(&size, sizeof size, 1, stdin) == 1) {
        unsigned char *job = size <= MAX_JOB_BYTES ? calloc(1, size + 1) : NULL;
        if (!job || fread(job, 1, size, stdin) != size)
            return 2;
        puts(sound(job, size, false) ? "sound" : "broken");
        free(job);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "--version"))
        return puts(HELLO) < 0;
    if (argc == 2 && !strcmp(argv[1], "--check"))
        return check();
    if (argc != 3)
        return 2;
    /* Above both places first, so that neither is closed by moving the other. */
    int sock = fcntl(atoi(argv[1]), F_DUPFD, FIRST_FREE_FD), launcher = fcntl(atoi(argv[2]), F_DUPFD, FIRST_FREE_FD);
    if (dup3(sock, SOCKET_FD, SOCK_CLOEXEC) < 0 || dup3(launcher, LAUNCHER_FD, SOCK_CLOEXEC) < 0)
        return 2;
    if (syscall(SYS_close_range, LAUNCHER_FD + 1, ~0U, 0))
        return 2;
    reset_signals();
    die_with_launcher();
    if (send(SOCKET_FD, HELLO, strlen(HELLO), MSG_NOSIGNAL) < 0)
        return 2;
    serve();
}
