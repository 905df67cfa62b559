/* /init of the KVM host's initramfs: loads /modules/order, mounts the disk and becomes its init. */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INIT "/usr/lib/kvm-host/inside.sh"

static int die(const char *what) {
    perror(what);
    return 1;
}

static int load(const char *name) {
    char path[256];
    snprintf(path, sizeof path, "/modules/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) != 0) return -1;
    return close(fd);
}

int main(void) {
    char line[128];
    FILE *order = fopen("/modules/order", "re");
    if (!order) return die("/modules/order");
    while (fgets(line, sizeof line, order)) {
        line[strcspn(line, "\n")] = 0;
        if (load(line) != 0) return die(line);
    }
    mkdir("/root", 0755);
    if (mount("devtmpfs", "/dev", "devtmpfs", 0, "") != 0) return die("/dev");
    if (mount("/dev/vda", "/root", "ext4", MS_NOATIME, "") != 0) return die("/dev/vda");
    if (mount("/dev", "/root/dev", NULL, MS_MOVE, NULL) != 0) return die("/root/dev");
    if (chdir("/root") != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0) return die("/root");
    if (chroot(".") != 0 || chdir("/") != 0) return die("chroot");
    execl(INIT, INIT, (char *)NULL);
    return die(INIT);
}
