//! The system call filter of a jail: what `allowed.rs` lists goes, anything else ends the process.
//!
//! It is put on just before exec, so it holds for the VMM from its first instruction on; QEMU adds its
//! own filter (`-sandbox`) later, and the kernel applies both. Calls of another architecture or of
//! the x32 interface end the process too: their numbers mean something else. Processes cannot be
//! made: clone goes for threads only, and clone3, whose flags a filter cannot see, is answered with
//! ENOSYS, upon which the C library uses clone.

use crate::allowed::{Vmm, ALLOWED, ANSWERED, FIRECRACKER};
use crate::sys::{check, Outcome};

/// Instructions of classic BPF (linux/bpf_common.h): ld abs, jeq, jge, jset, ret.
const LOAD: u32 = 0x20;
const EQUAL: u32 = 0x15;
const AT_LEAST: u32 = 0x35;
const ANY_BIT: u32 = 0x45;
const RETURN: u32 = 0x06;

/// Offsets in `struct seccomp_data`. The low half of the first argument is the first on both of our
/// architectures, which are little-endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

#[cfg(target_arch = "x86_64")]
const OWN_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OWN_ARCHITECTURE: u32 = 0xc000_00b7;
const X32: u32 = 0x4000_0000;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Filter {
    /// What is not listed ends the process.
    Enforce,
    /// It is written to the kernel's log and goes: to find what a new QEMU needs.
    Log,
    Off,
}

pub fn apply(filter: Filter, vmm: Vmm) -> Outcome {
    let otherwise = match filter {
        Filter::Enforce => libc::SECCOMP_RET_KILL_PROCESS,
        Filter::Log => libc::SECCOMP_RET_LOG,
        Filter::Off => return Ok(()),
    };
    let mut program = program(otherwise, vmm);
    let prog = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    check(unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &prog) }, "seccomp")?;
    Ok(())
}

fn program(otherwise: u32, vmm: Vmm) -> Vec<libc::sock_filter> {
    let mut lines = vec![
        load(ARCHITECTURE),
        jump(EQUAL, OWN_ARCHITECTURE, 1, 0),
        end(otherwise),
        load(NUMBER),
        jump(AT_LEAST, X32, 0, 1),
        end(otherwise),
    ];
    let more = if vmm == Vmm::Firecracker { FIRECRACKER } else { &[] };
    for number in ALLOWED.iter().chain(more) {
        lines.push(jump(EQUAL, *number as u32, 0, 1));
        lines.push(end(ALLOW));
    }
    for (number, error) in ANSWERED {
        lines.push(jump(EQUAL, *number as u32, 0, 1));
        lines.push(end(libc::SECCOMP_RET_ERRNO | *error as u32));
    }
    if vmm == Vmm::Firecracker {
        lines.push(jump(EQUAL, libc::SYS_socket as u32, 0, 4));
        lines.push(load(FIRST_ARGUMENT));
        lines.push(jump(EQUAL, libc::AF_UNIX as u32, 0, 1));
        lines.push(end(ALLOW));
        lines.push(end(otherwise));
    }
    lines.push(jump(EQUAL, libc::SYS_clone as u32, 1, 0));
    lines.push(end(otherwise));
    lines.push(load(FIRST_ARGUMENT));
    lines.push(jump(ANY_BIT, libc::CLONE_THREAD as u32, 0, 1));
    lines.push(end(ALLOW));
    lines.push(end(otherwise));
    lines
}

fn load(offset: u32) -> libc::sock_filter {
    line(LOAD, 0, 0, offset)
}

/// `yes` and `no` count the lines to skip.
fn jump(test: u32, value: u32, yes: u8, no: u8) -> libc::sock_filter {
    line(test, yes, no, value)
}

fn end(action: u32) -> libc::sock_filter {
    line(RETURN, 0, 0, action)
}

fn line(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

    /// What the kernel would answer: an interpreter of the few instructions above.
    fn run(vmm: Vmm, architecture: u32, number: u32, argument: u32) -> u32 {
        let program = program(KILL, vmm);
        let (mut place, mut value) = (0, 0);
        loop {
            let line = program[place];
            place += 1;
            let test = match line.code as u32 {
                LOAD => {
                    value = match line.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        _ => argument,
                    };
                    continue;
                }
                RETURN => return line.k,
                EQUAL => value == line.k,
                AT_LEAST => value >= line.k,
                ANY_BIT => value & line.k != 0,
                other => panic!("instruction {other}"),
            };
            place += if test { line.jt } else { line.jf } as usize;
        }
    }

    fn own(number: libc::c_long, argument: u32) -> u32 {
        run(Vmm::Qemu, OWN_ARCHITECTURE, number as u32, argument)
    }

    fn firecracker(number: libc::c_long, argument: u32) -> u32 {
        run(Vmm::Firecracker, OWN_ARCHITECTURE, number as u32, argument)
    }

    #[test]
    fn what_is_listed_goes_and_nothing_else() {
        for number in 0..1000 {
            let listed = ALLOWED.contains(&number);
            let error = ANSWERED.iter().find(|(answered, _)| *answered == number);
            let wanted = match (listed, error) {
                (true, _) => ALLOW,
                (_, Some((_, error))) => libc::SECCOMP_RET_ERRNO | *error as u32,
                _ => KILL,
            };
            assert!(own(number, 0) == wanted, "{number}");
        }
        assert_eq!(own(libc::SYS_ptrace, 0), KILL);
        assert_eq!(own(libc::SYS_mount, 0), KILL);
    }

    #[test]
    fn threads_go_and_processes_do_not() {
        assert_eq!(own(libc::SYS_clone, libc::CLONE_THREAD as u32), ALLOW);
        assert_eq!(own(libc::SYS_clone, libc::SIGCHLD as u32), KILL);
        assert_eq!(own(libc::SYS_clone, libc::CLONE_NEWUSER as u32), KILL);
    }

    #[test]
    fn firecracker_makes_unix_sockets_only() {
        assert_eq!(firecracker(libc::SYS_socket, libc::AF_UNIX as u32), ALLOW);
        assert_eq!(firecracker(libc::SYS_socket, libc::AF_INET as u32), KILL);
        assert_eq!(firecracker(libc::SYS_socket, libc::AF_PACKET as u32), KILL);
        assert_eq!(firecracker(libc::SYS_tkill, 0), ALLOW);
        assert_eq!(firecracker(libc::SYS_clone, libc::CLONE_THREAD as u32), ALLOW);
        assert_eq!(firecracker(libc::SYS_clone, libc::SIGCHLD as u32), KILL);
        assert_eq!(own(libc::SYS_socket, libc::AF_UNIX as u32), KILL);
        assert_eq!(own(libc::SYS_tkill, 0), KILL);
    }

    #[test]
    fn other_architectures_do_not_go() {
        assert_eq!(run(Vmm::Qemu, 0x4000_0003, libc::SYS_read as u32, 0), KILL);
        assert_eq!(own(libc::SYS_read | X32 as libc::c_long, 0), KILL);
    }
}
