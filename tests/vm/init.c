// Guest of the VMM tests: PID 1 that obeys one-line commands on the agent port.
// The product's agent is guest/; this one only dirties memory and disk and adds checksums.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static unsigned char *memory;
static size_t memory_size;
static int port = -1;

static void load_modules(void) {
    char name[128], path[256];
    FILE *order = fopen("/modules/order", "r");
    while (order && fscanf(order, "%100s", name) == 1) {
        snprintf(path, sizeof path, "/modules/%s", name);
        int fd = open(path, O_RDONLY);
        if (syscall(SYS_finit_module, fd, "", 0) != 0) perror(path);
        close(fd);
    }
}

static int open_port(const char *wanted) {
    char path[600], name[128];
    DIR *ports = opendir("/sys/class/virtio-ports");
    for (struct dirent *entry; ports && (entry = readdir(ports));) {
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        if (fgets(name, sizeof name, file) && !strncmp(name, wanted, strlen(wanted))) {
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            fclose(file);
            closedir(ports);
            return open(path, O_RDWR);
        }
        fclose(file);
    }
    if (ports) closedir(ports);
    return -1;
}

static uint64_t checksum(const unsigned char *data, size_t size) {
    uint64_t sum = 1469598103934665603ull;
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, data + i, 8);
        sum = (sum ^ word) * 1099511628211ull;
    }
    return sum;
}

static void fill(unsigned char *data, size_t size, uint64_t seed) {
    for (size_t i = 0; i + 8 <= size; i += 8) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        memcpy(data + i, &seed, 8);
    }
}

static void dirty(size_t mib, uint64_t seed, char *answer) {
    if (memory) munmap(memory, memory_size);
    memory_size = mib << 20;
    memory = mmap(0, memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fill(memory, memory_size, seed);
    sprintf(answer, "%016lx", checksum(memory, memory_size));
}

static void put(const char *name, size_t kib, uint64_t seed, char *answer) {
    char path[256];
    size_t size = kib << 10;
    unsigned char *data = malloc(size);
    fill(data, size, seed);
    snprintf(path, sizeof path, "/disk/%s", name);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    ssize_t written = write(fd, data, size);
    sprintf(answer, "%s %016lx", written == (ssize_t)size && fsync(fd) == 0 ? "ok" : "failed",
            checksum(data, size));
    close(fd);
    free(data);
}

static void get(const char *name, char *answer) {
    char path[256];
    struct stat stat;
    snprintf(path, sizeof path, "/disk/%s", name);
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &stat) != 0) {
        strcpy(answer, "missing");
        return;
    }
    unsigned char *data = malloc(stat.st_size);
    ssize_t size = read(fd, data, stat.st_size);
    sprintf(answer, "%s %016lx", size == stat.st_size ? "ok" : "failed", checksum(data, size));
    close(fd);
    free(data);
}

static void obey(char *line, char *answer) {
    char name[128];
    unsigned long number = 0, seed = 0;
    strcpy(answer, "what?");
    if (!strcmp(line, "ping")) strcpy(answer, "pong");
    else if (sscanf(line, "dirty %lu %lu", &number, &seed) == 2) dirty(number, seed, answer);
    else if (!strcmp(line, "sum")) sprintf(answer, "%016lx", checksum(memory, memory_size));
    else if (!strcmp(line, "zero")) { memset(memory, 0, memory_size); strcpy(answer, "ok"); }
    else if (sscanf(line, "put %100s %lu %lu", name, &number, &seed) == 3)
        put(name, number, seed, answer);
    else if (sscanf(line, "get %100s", name) == 1) get(name, answer);
    else if (!strcmp(line, "sync")) { sync(); strcpy(answer, "ok"); }
    else if (sscanf(line, "print %lu", &number) == 1) {
        for (unsigned long i = 0; i < number; i++) printf("line %08lu of a talkative guest\n", i);
        fflush(stdout);
        strcpy(answer, "ok");
    } else if (!strcmp(line, "poweroff")) { sync(); reboot(RB_POWER_OFF); }
    else if (!strcmp(line, "reboot")) { sync(); reboot(RB_AUTOBOOT); }
}

int main(void) {
    char line[512], answer[512];
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mkdir("/disk", 0755);
    mount("proc", "/proc", "proc", 0, "");
    mount("sysfs", "/sys", "sysfs", 0, "");
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    load_modules();
    int console = open("/dev/console", O_RDWR);
    dup2(console, 1);
    dup2(console, 2);
    for (int i = 0; i < 2000 && (port = open_port("microvmd.agent")) < 0; i++) usleep(5000);
    if (mount("/dev/vda", "/disk", "ext4", 0, "") != 0) perror("mount");
    printf("test guest is up\n");
    fflush(stdout);
    for (size_t used = 0;;) {
        // Without a connected host the port reads as ended; wait for the next one.
        ssize_t got = read(port, line + used, sizeof line - 1 - used);
        if (got <= 0) {
            used = 0;
            usleep(2000);
            continue;
        }
        used += got;
        line[used] = 0;
        char *end = strchr(line, '\n');
        if (!end) {
            if (used == sizeof line - 1) used = 0;
            continue;
        }
        *end = 0;
        obey(line, answer);
        strcat(answer, "\n");
        if (write(port, answer, strlen(answer)) < 0) usleep(2000);
        used = 0;
    }
}
