//! How long a busy thread keeps its processor from one that has just woken.
//!
//! A neighbour's request wakes several threads one after another (main loop, vCPU, main loop), and
//! each may find a busy VMM on its processor. The kernel lets that one finish its slice first, of
//! about 3 ms by default; with a short one the request waits less, and nobody's share changes.

/// Nanoseconds. The kernel takes 0.1 to 100 ms, from Linux 6.12 on; an older one ignores it.
const SLICE: u64 = 200_000;

#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// For this process and all threads that it will make. Where the kernel refuses, its default holds.
pub fn shorten() {
    let attributes = Attributes {
        size: std::mem::size_of::<Attributes>() as u32,
        policy: libc::SCHED_OTHER as u32,
        nice: unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) },
        runtime: SLICE,
        ..Attributes::default()
    };
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attributes, 0) };
}
