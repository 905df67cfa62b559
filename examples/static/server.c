/* An HTTP server in one static file: every request gets the number of requests so far. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORT 8080
#define BACKLOG 64

/* Reads up to the empty line that ends a request's head. Bodies are not read: none is expected. */
static int read_head(int client)
{
    char head[8192];
    size_t length = 0;

    while (length < sizeof head - 1) {
        ssize_t count = read(client, head + length, sizeof head - 1 - length);
        if (count <= 0)
            return -1;
        length += (size_t)count;
        head[length] = 0;
        if (strstr(head, "\r\n\r\n"))
            return 0;
    }
    return -1;
}

static void answer(int client, unsigned long number)
{
    char body[64], text[256];
    int size = snprintf(body, sizeof body, "request %lu of process %d\n", number, (int)getpid());
    int length = snprintf(text, sizeof text,
                          "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
                          "content-length: %d\r\nconnection: close\r\n\r\n%s", size, body);
    if (write(client, text, (size_t)length) != length)
        perror("write");
}

/* The first process of a container gets no signal that it does not handle. */
static void end(int number)
{
    (void)number;
    _exit(0);
}

int main(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(PORT) };
    unsigned long number = 0;
    int yes = 1, server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, end);
    if (server < 0 || setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) < 0 ||
        bind(server, (struct sockaddr *)&address, sizeof address) < 0 || listen(server, BACKLOG) < 0) {
        perror("listen");
        return 1;
    }
    printf("listening on %d\n", PORT);
    fflush(stdout);
    for (;;) {
        int client = accept(server, NULL, NULL);
        if (client < 0)
            continue;
        if (read_head(client) == 0)
            answer(client, ++number);
        close(client);
    }
}
