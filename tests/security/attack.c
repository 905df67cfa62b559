/* What a hostile RUN step does. Each act prints one line, "<act> worked" or "<act> refused (why)";
 * none of them harms whoever lets it work: files are opened, not written, and what is mounted lies
 * in a folder of the caller's own. Static, so that it needs nothing of the image around it. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void say(const char *act, int result)
{
    if (result >= 0)
        printf("%s worked\n", act);
    else
        printf("%s refused (%s)\n", act, strerror(errno));
    fflush(stdout);
}

static int opens(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd;
}

/* A container may have /dev/null in the place of a file: that opens, and has nothing to read. */
static int reads(const char *path)
{
    char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = read(fd, &byte, 1) == 1 ? 0 : -1;
    close(fd);
    return result;
}

/* A device file of our own. */
static int device(const char *name, mode_t kind, int major_number, int minor_number)
{
    int result = mknod(name, kind | 0600, makedev(major_number, minor_number));
    if (result == 0)
        unlink(name);
    return result;
}

static int same_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return clock_settime(CLOCK_REALTIME, &now);
}

static int same_host_name(void)
{
    char name[65];
    gethostname(name, sizeof name);
    return sethostname(name, strlen(name));
}

static int in_new_namespaces(void)
{
    pid_t child = fork();
    if (child == 0)
        _exit(unshare(CLONE_NEWNS) < 0 ? errno : 0);
    int status;
    waitpid(child, &status, 0);
    errno = WEXITSTATUS(status);
    return errno ? -1 : 0;
}

static int of_process_one(void)
{
    int fd = open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = setns(fd, CLONE_NEWNS);
    close(fd);
    return result;
}

static int by_handle(void)
{
    struct file_handle *handle = calloc(1, sizeof *handle + 8);
    handle->handle_bytes = 8;
    handle->handle_type = 1;
    handle->f_handle[0] = 2; /* the root folder of any ext4 */
    int base = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = open_by_handle_at(base, handle, O_RDONLY);
    int why = errno;
    free(handle);
    if (fd >= 0)
        close(fd);
    close(base);
    errno = why;
    /* ESTALE: the kernel looked, so it would have obeyed. */
    return fd < 0 && why == ESTALE ? 0 : fd;
}

static void kernel(const char *own)
{
    char mine[200], disk[220], memory[220];
    snprintf(mine, sizeof mine, "%s/mounted", own);
    snprintf(disk, sizeof disk, "%s/disk", own);
    snprintf(memory, sizeof memory, "%s/memory", own);
    mkdir(mine, 0700);
    say("mknod-disk", device(disk, S_IFBLK, 254, 0));
    say("mknod-memory", device(memory, S_IFCHR, 1, 1));
    say("mount-tmpfs", mount("none", mine, "tmpfs", 0, ""));
    umount2(mine, MNT_DETACH);
    say("mount-bind", mount("/", mine, NULL, MS_BIND, NULL));
    umount2(mine, MNT_DETACH);
    say("mount-proc", mount("proc", mine, "proc", 0, ""));
    umount2(mine, MNT_DETACH);
    say("sysrq", opens("/proc/sysrq-trigger", O_WRONLY));
    say("core-pattern", opens("/proc/sys/kernel/core_pattern", O_WRONLY));
    say("kernel-log", opens("/dev/kmsg", O_RDONLY));
    say("kernel-memory", reads("/proc/kcore"));
    say("new-namespace", in_new_namespaces());
    say("namespace-of-1", of_process_one());
    say("file-by-handle", by_handle());
    say("host-name", same_host_name());
    say("clock", same_time());
}

static int begun(const char *address, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    connect(fd, (struct sockaddr *)&to, sizeof to);
    return fd;
}

static int reached(int fd)
{
    struct pollfd now = {.fd = fd, .events = POLLOUT};
    int failed = 1;
    socklen_t size = sizeof failed;
    if (poll(&now, 1, 0) == 1)
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size);
    close(fd);
    return !failed;
}

/* One line for each target in each round, until one reaches the last of them. */
static void network(char **targets, int count)
{
    int over = 0;
    for (int round = 1; !over; round++) {
        int fds[64];
        for (int at = 0; at + 1 < count && at < 128; at += 2)
            fds[at / 2] = begun(targets[at], atoi(targets[at + 1]));
        poll(NULL, 0, 1500);
        for (int at = 0; at + 1 < count && at < 128; at += 2) {
            over = reached(fds[at / 2]);
            printf("round %d: %s:%s %s\n", round, targets[at], targets[at + 1],
                   over ? "reached" : "closed");
        }
        printf("round %d ended\n", round);
        fflush(stdout);
    }
}

static void ask(const char *address, const char *request)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(80)};
    inet_pton(AF_INET, address, &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    char text[2000], token[500] = "", answer[4000];
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
        printf("metadata refused (%s)\n", strerror(errno));
        return;
    }
    int length = snprintf(text, sizeof text,
                          "PUT /latest/api/token HTTP/1.1\r\nHost: m\r\n"
                          "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n");
    if (write(fd, text, length) == length && (length = read(fd, answer, sizeof answer - 1)) > 0) {
        answer[length] = 0;
        char *body = strstr(answer, "\r\n\r\n");
        snprintf(token, sizeof token, "%s", body ? body + 4 : "");
    }
    length = snprintf(text, sizeof text,
                      "GET %s HTTP/1.1\r\nHost: m\r\nX-aws-ec2-metadata-token: %s\r\n\r\n", request,
                      token);
    length = write(fd, text, length) == length ? read(fd, answer, sizeof answer - 1) : 0;
    answer[length > 0 ? length : 0] = 0;
    printf("metadata answered %.12s\n", answer);
    char *body = strstr(answer, "\r\n\r\n");
    printf("metadata said %.60s\n", body ? body + 4 : "nothing");
    close(fd);
}

static void bomb(int wanted)
{
    int made = 0;
    pid_t *children = calloc(wanted, sizeof *children);
    while (made < wanted && (children[made] = fork()) >= 0) {
        if (children[made] == 0) {
            pause();
            _exit(0);
        }
        made++;
    }
    printf("forked %d of %d\n", made, wanted);
    fflush(stdout);
    for (int at = 0; at < made; at++)
        kill(children[at], SIGKILL);
    while (wait(NULL) > 0)
        ;
}

static void hog(int mebibytes)
{
    for (int at = 0; at < mebibytes; at++) {
        char *piece = malloc(1 << 20);
        if (!piece)
            exit(1);
        memset(piece, at + 1, 1 << 20);
    }
    printf("took %d MiB\n", mebibytes);
}

static void fill(const char *path, int mebibytes)
{
    static char piece[1 << 20];
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    memset(piece, 'x', sizeof piece);
    for (int at = 0; at < mebibytes; at++)
        if (write(fd, piece, sizeof piece) != sizeof piece) {
            perror("fill");
            exit(1);
        }
    close(fd);
    printf("filled %d MiB\n", mebibytes);
}

static void flood(const char *text, long bytes)
{
    static char piece[1 << 16];
    size_t length = strlen(text);
    size_t used = 0;
    while (used + length <= sizeof piece) {
        memcpy(piece + used, text, length);
        used += length;
    }
    for (; bytes > 0; bytes -= used)
        if (write(1, piece, used) < 0)
            exit(1);
}

/* So many folders, one in another: deeper than any path can say. */
static void dig(const char *where, int count)
{
    if (chdir(where) < 0)
        exit(1);
    for (int at = 0; at < count; at++)
        if (mkdir("d", 0700) < 0 || chdir("d") < 0)
            exit(1);
    printf("dug %d\n", count);
}

int main(int count, char **words)
{
    const char *act = count > 1 ? words[1] : "";
    if (!strcmp(act, "kernel") && count == 3)
        kernel(words[2]);
    else if (!strcmp(act, "network"))
        network(words + 2, count - 2);
    else if (!strcmp(act, "ask") && count == 4)
        ask(words[2], words[3]);
    else if (!strcmp(act, "bomb") && count == 3)
        bomb(atoi(words[2]));
    else if (!strcmp(act, "hog") && count == 3)
        hog(atoi(words[2]));
    else if (!strcmp(act, "fill") && count == 4)
        fill(words[2], atoi(words[3]));
    else if (!strcmp(act, "flood") && count == 4)
        flood(words[2], atol(words[3]));
    else if (!strcmp(act, "sparse") && count == 4)
        say("sparse", truncate(words[2], atol(words[3])));
    else if (!strcmp(act, "dig") && count == 4)
        dig(words[2], atoi(words[3]));
    else
        return 2;
    return 0;
}
