//! System calls that a VMM may make: all others end it (`seccomp.rs`).
//!
//! How it was found: `strace -D -f` in place of the jailer, over boot, image snapshot, restore,
//! network, disk writes with discard, suspend (both methods), resume and running out of memory, with
//! QEMU 10.0 on glibc 2.36 under TCG. Beside what was seen there are: what the same code does on other
//! occasions (a full buffer, a wait that was interrupted, a failed assertion), what KVM adds (it is
//! all ioctl), and the call that another C library uses for the same thing. For a new QEMU run with
//! `MICROVMD_VMM_SECCOMP=log`, and the kernel's log names what is missing by its number.
//!
//! Firecracker has a filter of its own for each of its threads, on before the guest runs, which allows
//! less than this one; ours holds from its first instruction on. What it calls beside QEMU's is in
//! `FIRECRACKER` (its sockets lie in its own directory), and in `seccomp.rs` UNIX sockets only.
//!
//! Left out on purpose, although QEMU tries it: io_uring (it then uses ppoll; answered like an old
//! kernel would, see `ANSWERED`), and whatever makes sockets: those that it needs it inherits.

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Vmm {
    Qemu,
    Firecracker,
}

/// What Firecracker calls and QEMU need not.
pub const FIRECRACKER: &[libc::c_long] = &[
    // Its API, and the host's end of vsock.
    libc::SYS_bind,
    libc::SYS_connect,
    // It wakes a vCPU so; only its own threads are in its pid namespace.
    libc::SYS_tkill,
];

/// The most frequent ones first.
pub const ALLOWED: &[libc::c_long] = &[
    // Waiting and waking.
    libc::SYS_futex,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_pselect6,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // KVM, the tap, and what files are.
    libc::SYS_ioctl,
    // Disks, device state, console.
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    SYS_FADVISE64,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_pipe2,
    // Sockets that were made before: monitor and guest agent.
    libc::SYS_accept4,
    libc::SYS_accept,
    libc::SYS_listen,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Memory. memfd: glib's and the translator's probes.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_brk,
    libc::SYS_memfd_create,
    libc::SYS_membarrier,
    libc::SYS_get_mempolicy,
    // Threads and signals; clone is in `seccomp.rs`.
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    SYS_RSEQ,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigpending,
    libc::SYS_sigaltstack,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    // Files of the jail's root: libraries and firmware.
    libc::SYS_openat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    libc::SYS_readlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    libc::SYS_getcwd,
    // Start-up. execve is for the jailer's own last step: QEMU's filter takes it away, and there is
    // nothing else in the root to execute.
    libc::SYS_execve,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    libc::SYS_prctl,
    libc::SYS_seccomp,
    libc::SYS_prlimit64,
    libc::SYS_getrandom,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_umask,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
];

/// Answered with an error, upon which the VMM does without.
pub const ANSWERED: &[(libc::c_long, libc::c_int)] = &[
    (libc::SYS_clone3, libc::ENOSYS),
    (libc::SYS_io_uring_setup, libc::ENOSYS),
    (libc::SYS_set_mempolicy, libc::EPERM),
    // Its sockets' names, when it ends: they are not in its root.
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, libc::ENOENT),
    (libc::SYS_unlinkat, libc::ENOENT),
];

// Names that the crate has not on both.
#[cfg(target_arch = "x86_64")]
const SYS_RSEQ: libc::c_long = 334;
#[cfg(target_arch = "aarch64")]
const SYS_RSEQ: libc::c_long = 293;
#[cfg(target_arch = "x86_64")]
const SYS_FADVISE64: libc::c_long = 221;
#[cfg(target_arch = "aarch64")]
const SYS_FADVISE64: libc::c_long = 223;
