#!/bin/sh
# PID 1 of the KVM host: mounts, modules, then the program that runs what it is sent.
# It waits for that program and so takes every orphan, which the program itself would not.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2> /dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
# Memory files of guests live below /tmp: no emulated disk stands between them and the guests.
mount -t tmpfs -o mode=1777,size=90% tmpfs /tmp
mount -t tmpfs -o mode=1777,size=90% tmpfs /var/tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -o remount,rw / 2> /dev/null
for module in kvm-amd tun vhost_vsock vsock_loopback nf_tables nft_chain_nat nft_ct nft_limit nft_reject_inet \
    nft_masq nft_redir nft_log veth erofs overlay loop virtio-rng; do
    modprobe "$module" || echo "no module $module"
done
ip link set lo up
hostname kvm-host
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
ulimit -n 65536
cd /
# Below the messages of the kernel its own answer would be hard to find.
python3 -I /usr/lib/kvm-host/inside.py
echo "inside.py ended: $?"
echo o > /proc/sysrq-trigger
