/* An application with every lifecycle hook: one static binary, one process, no libc files.
 *
 * Port 8080, any address:
 *   /count          how often this was asked, from memory
 *   /clocks         nanoseconds of the wall clock and of the monotonic one, and what they count by
 *   /hooks          names and bodies of the hooks called so far, a line each
 *   /fail/HOOK      answer this hook with 500 from now on
 *   /hang/HOOK      never answer this hook from now on
 *   /say/TEXT       write TEXT and a line end to stdout
 *   /put/TEXT       write TEXT to the file /text and sync it; /get reads it
 *   /take/MIB       take so much memory, and keep it
 *   /exit/CODE      write "leaving" without a line end to stderr, and exit
 * Port 9000, loopback: the hooks. /ready is 503 the first time.
 * With an argument: write it to stderr and exit with code 4 before listening.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char called[8192], failing[256], hanging[256];
static int asked, polled;

static int listening(int port, in_addr_t where)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(where);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) {
        perror("listen");
        exit(1);
    }
    return listener;
}

static void answer(int connection, int status, const char *body)
{
    static char text[9000];
    int length = snprintf(text, sizeof text,
        "HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
        status, strlen(body), body);
    if (write(connection, text, length) != length)
        perror("answer");
}

static void add(char *list, size_t size, const char *name)
{
    size_t used = strlen(list);
    snprintf(list + used, size - used, " %s ", name);
}

/* Whether the connection is done with. */
static int hook(int connection, char *name, const char *body)
{
    char wanted[64];
    snprintf(wanted, sizeof wanted, " %s ", name);
    size_t used = strlen(called);
    snprintf(called + used, sizeof called - used, "%s %s\n", name, body);
    if (strstr(hanging, wanted))
        return 0;
    if (!strcmp(name, "ready") && polled++ == 0)
        answer(connection, 503, "not yet");
    else
        answer(connection, strstr(failing, wanted) ? 500 : 200, "ok");
    return 1;
}

static void clocks(int connection)
{
    char source[32] = "", text[128];
    FILE *file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "r");
    if (file) {
        if (fgets(source, sizeof source, file))
            source[strcspn(source, "\n")] = 0;
        fclose(file);
    }
    struct timespec wall, monotonic;
    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_MONOTONIC, &monotonic);
    snprintf(text, sizeof text, "%ld%09ld %ld%09ld %s", wall.tv_sec, wall.tv_nsec,
        monotonic.tv_sec, monotonic.tv_nsec, source);
    answer(connection, 200, text);
}

static void request(int connection, char *path)
{
    char text[64];
    if (!strcmp(path, "/count")) {
        snprintf(text, sizeof text, "%d", ++asked);
        answer(connection, 200, text);
    } else if (!strcmp(path, "/clocks")) {
        clocks(connection);
    } else if (!strcmp(path, "/hooks")) {
        answer(connection, 200, called);
    } else if (!strncmp(path, "/fail/", 6)) {
        add(failing, sizeof failing, path + 6);
        answer(connection, 200, "ok");
    } else if (!strncmp(path, "/hang/", 6)) {
        add(hanging, sizeof hanging, path + 6);
        answer(connection, 200, "ok");
    } else if (!strncmp(path, "/say/", 5)) {
        printf("%s\n", path + 5);
        answer(connection, 200, "ok");
    } else if (!strncmp(path, "/put/", 5)) {
        FILE *file = fopen("/text", "w");
        if (!file || fputs(path + 5, file) < 0 || fflush(file) || fsync(fileno(file)))
            answer(connection, 500, "not written");
        else
            answer(connection, 200, "ok");
        if (file)
            fclose(file);
    } else if (!strcmp(path, "/get")) {
        FILE *file = fopen("/text", "r");
        memset(text, 0, sizeof text);
        if (!file || !fgets(text, sizeof text, file))
            answer(connection, 500, "not read");
        else
            answer(connection, 200, text);
        if (file)
            fclose(file);
    } else if (!strncmp(path, "/take/", 6)) {
        size_t taken = (size_t)atoi(path + 6) << 20;
        char *memory = malloc(taken);
        for (size_t at = 0; memory && at < taken; at += 4096)
            memory[at] = 1 + at / 4096 % 255;
        answer(connection, memory ? 200 : 500, "taken");
    } else if (!strncmp(path, "/exit/", 6)) {
        answer(connection, 200, "ok");
        fprintf(stderr, "leaving");
        exit(atoi(path + 6));
    } else {
        answer(connection, 404, "no such path");
    }
}

static int serve(int connection, int is_hook)
{
    static char text[65536];
    ssize_t length = read(connection, text, sizeof text - 1);
    if (length <= 0)
        return 1;
    text[length] = 0;
    char *body = strstr(text, "\r\n\r\n");
    char *path = strchr(text, ' ');
    if (!body || !path)
        return 1;
    *strchr(path + 1, ' ') = 0;
    if (is_hook)
        return hook(connection, strrchr(path + 1, '/') + 1, body + 4);
    request(connection, path + 1);
    return 1;
}

int main(int count, char **arguments)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count > 1) {
        fprintf(stderr, "%s", arguments[1]);
        return 4;
    }
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
                int connection = accept(ends[i].fd, NULL, NULL);
                if (serve(connection, i == 0))
                    close(connection);
            }
    }
}
