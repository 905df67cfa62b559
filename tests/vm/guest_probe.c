/* The application and the tools of the test image: one static binary, no libc files, no shell.
 *
 *   serve PORT      log "serving", answer hooks: /ready 503 twice and then 200, /run 200 with the
 *                   body in the log, /suspend 500, /terminate never, anything else 404
 *   show PATH...    print files
 *   cat             copy stdin to stdout
 *   flood BYTES     write that many bytes to stdout
 *   split           one line to stdout, one to stderr, exit with 3
 *   terminal        print the terminal's size, echo one line, print the size again
 *   random          print 16 random bytes in hex
 *   environment     print the environment and the working directory
 *   deaf            ignore SIGTERM and wait
 *   device          try to open a device node of its own
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

extern char **environ;

static void answer(int connection, int status)
{
    char text[128];
    int length = snprintf(text, sizeof text,
        "HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok", status);
    if (write(connection, text, length) != length)
        perror("answer");
}

static void leave(int number)
{
    (void)number;
    _exit(0);
}

static int serve(int port)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1, asked = 0;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 8))
        return perror("listen"), 1;
    signal(SIGTERM, leave);
    printf("serving\n");
    fprintf(stderr, "to stderr\n");
    for (;;) {
        char text[4096];
        int connection = accept(listener, NULL, NULL);
        ssize_t length = read(connection, text, sizeof text - 1);
        if (length <= 0) {
            close(connection);
            continue;
        }
        text[length] = 0;
        char *body = strstr(text, "\r\n\r\n");
        if (strstr(text, "/v1/ready "))
            answer(connection, asked++ < 2 ? 503 : 200);
        else if (strstr(text, "/v1/run ")) {
            printf("run %s\n", body ? body + 4 : "");
            answer(connection, 200);
        } else if (strstr(text, "/v1/suspend "))
            answer(connection, 500);
        else if (strstr(text, "/v1/validate "))
            ; /* closed without an answer */
        else if (strstr(text, "/v1/terminate "))
            continue; /* kept open, never answered */
        else
            answer(connection, 404);
        close(connection);
    }
}

static int show(char **paths)
{
    for (; *paths; paths++) {
        char text[65536];
        int file = open(*paths, O_RDONLY);
        ssize_t length;
        if (file < 0) {
            printf("%s: %s\n", *paths, strerror(errno));
            continue;
        }
        while ((length = read(file, text, sizeof text)) > 0)
            fwrite(text, 1, length, stdout);
        close(file);
    }
    return 0;
}

static void size(void)
{
    struct winsize window;
    if (ioctl(0, TIOCGWINSZ, &window))
        printf("no terminal\n");
    else
        printf("%d x %d\n", window.ws_row, window.ws_col);
}

static int device(void)
{
    if (mknod("/dev/own", S_IFBLK | 0600, makedev(254, 0)))
        return printf("mknod: %s\n", strerror(errno)), 0;
    int file = open("/dev/own", O_RDONLY);
    return printf("open: %s\n", file < 0 ? strerror(errno) : "it worked"), 0;
}

int main(int count, char **arguments)
{
    const char *what = count > 1 ? arguments[1] : "";
    char text[4096];
    ssize_t length;
    setvbuf(stdout, NULL, _IOLBF, 4096);
    if (!strcmp(what, "serve"))
        return serve(atoi(arguments[2]));
    if (!strcmp(what, "show"))
        return show(arguments + 2);
    if (!strcmp(what, "device"))
        return device();
    if (!strcmp(what, "cat")) {
        while ((length = read(0, text, sizeof text)) > 0)
            if (write(1, text, length) != length)
                return 1;
    } else if (!strcmp(what, "flood")) {
        memset(text, 'x', sizeof text);
        for (long left = atol(arguments[2]); left > 0; left -= sizeof text)
            if (write(1, text, left < (long)sizeof text ? left : (long)sizeof text) < 0)
                return 1;
    } else if (!strcmp(what, "split")) {
        printf("out\n");
        fprintf(stderr, "err\n");
        return 3;
    } else if (!strcmp(what, "terminal")) {
        size();
        if (fgets(text, sizeof text, stdin))
            printf("got %s", text);
        size();
    } else if (!strcmp(what, "random")) {
        unsigned char bytes[16];
        if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
            return 1;
        for (int i = 0; i < 16; i++)
            printf("%02x", bytes[i]);
        printf("\n");
    } else if (!strcmp(what, "environment")) {
        for (char **entry = environ; *entry; entry++)
            printf("%s\n", *entry);
        printf("cwd %s uid %d gid %d\n", getcwd(text, sizeof text), getuid(), getgid());
    } else if (!strcmp(what, "deaf")) {
        printf("deaf\n");
        for (;;)
            pause();
    } else
        return 64;
    return 0;
}
