/* What a VMM that was taken over would try: one attack for each run, named by the first argument.
 *
 * Exit code 0: it went through. 1: it was refused, the last line says how. A signal: it was ended.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROCESSES 150

static long outcome(long result)
{
    if (result < 0)
        printf("refused: %s\n", strerror(errno));
    fflush(stdout);
    return result < 0;
}

static long connect_to(int port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return fd < 0 ? fd : connect(fd, (struct sockaddr *) &address, sizeof address);
}

static long enter_network_of(const char *pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/net", pid);
    int fd = open(path, O_RDONLY);
    return fd < 0 ? fd : setns(fd, CLONE_NEWNET);
}

/* Many processes at once; each ends when the pipe does, with this one. */
static long fork_many(void)
{
    int alive[2];
    char byte;
    if (pipe2(alive, 0) < 0)
        return -1;
    for (int count = 0; count < PROCESSES; count++) {
        pid_t pid = fork();
        if (pid < 0)
            return -1;
        if (pid == 0) {
            close(alive[1]);
            _exit(read(alive[0], &byte, 1) != 0);
        }
    }
    return 0;
}

static long attack(const char *name, const char *argument)
{
    if (!strcmp(name, "read-host"))
        return open("/etc/shadow", O_RDONLY);
    if (!strcmp(name, "write-root"))
        return open("/tmp-of-escape", O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (!strcmp(name, "own-dev"))
        return mknod("/dev/escape", S_IFBLK | 0600, makedev(8, 0));
    if (!strcmp(name, "ptrace"))
        return ptrace(PTRACE_ATTACH, atoi(argument), 0, 0);
    if (!strcmp(name, "kill"))
        return kill(atoi(argument), SIGCONT);
    if (!strcmp(name, "mount"))
        return mount("none", "/", "tmpfs", 0, 0);
    if (!strcmp(name, "unshare"))
        return unshare(CLONE_NEWUSER | CLONE_NEWNET);
    if (!strcmp(name, "setns"))
        return enter_network_of(argument);
    if (!strcmp(name, "become-root"))
        return setuid(0);
    if (!strcmp(name, "connect"))
        return connect_to(atoi(argument));
    if (!strcmp(name, "raw-socket"))
        return socket(AF_PACKET, SOCK_RAW, htons(3));
    if (!strcmp(name, "netlink"))
        return socket(AF_NETLINK, SOCK_RAW, 0);
    if (!strcmp(name, "keyring"))
        return syscall(SYS_add_key, "user", "escape", "x", 1L, -1L);
    if (!strcmp(name, "io-uring")) {
        char parameters[256] = { 0 };
        return syscall(SYS_io_uring_setup, 4, parameters);
    }
    if (!strcmp(name, "fork-bomb"))
        return fork_many();
    if (!strcmp(name, "nothing"))
        return 0;
    errno = EINVAL;
    return -1;
}

int main(int count, char **words)
{
    return outcome(attack(count > 1 ? words[1] : "", count > 2 ? words[2] : "0"));
}
