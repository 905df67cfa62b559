//! Starts a VMM where it can reach nothing but its own files.
//!
//! The node starts this program as root with a plan on its command line (`plan.rs`). It joins the
//! cgroups, makes new mount, network, IPC, UTS and PID namespaces (the network's may be a given one),
//! and forks. The child is made a
//! child of the node (CLONE_PARENT), so that the node can wait for it; it builds the root, gives up
//! every right and becomes the VMM. This process writes the child's pid, as the host counts, to the
//! report descriptor and ends. A child whose pid was not reported ends too: none is ever lost.

mod allowed;
mod plan;
mod privileges;
mod root;
mod seccomp;
mod slice;
mod sys;

use plan::Plan;
use std::ffi::CStr;
use std::ptr;
use sys::{check, prctl, write_all, Outcome};

const NAMESPACES: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWPID;
/// Exit code of a jail that could not be built; the reason is on standard error.
const NOT_BUILT: i32 = 125;

fn main() {
    let done = plan::parse(std::env::args_os().skip(1)).and_then(|plan| jail(&plan));
    if let Err(reason) = done {
        eprintln!("microvmd-jailer: {reason}");
        std::process::exit(NOT_BUILT);
    }
}

/// Returns in the node's child only when the jail could not be built.
fn jail(plan: &Plan) -> Outcome {
    for procs in &plan.cgroups {
        write_all(procs, b"0")?;
    }
    let mut namespaces = NAMESPACES;
    match &plan.network {
        Some(path) => enter_network(path)?,
        None => namespaces |= libc::CLONE_NEWNET,
    }
    check(unsafe { libc::unshare(namespaces) }.into(), "unshare")?;
    let mut go = [0i32; 2];
    check(unsafe { libc::pipe2(go.as_mut_ptr(), libc::O_CLOEXEC) }.into(), "pipe")?;
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) }, "clone")?;
    if pid == 0 {
        unsafe { libc::close(go[1]) };
        return become_vmm(plan, go[0]);
    }
    report(plan.report_fd, pid)?;
    check(
        unsafe { libc::write(go[1], b"g".as_ptr().cast(), 1) } as libc::c_long,
        "let the child go",
    )?;
    Ok(())
}

/// That of a MicroVM, for a VMM that opens its tap by name.
fn enter_network(path: &CStr) -> Outcome {
    let fd = check(
        unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) }.into(),
        "open the network namespace",
    )? as libc::c_int;
    check(unsafe { libc::setns(fd, libc::CLONE_NEWNET) }.into(), "enter the network namespace")?;
    unsafe { libc::close(fd) };
    Ok(())
}

fn report(fd: i32, pid: libc::c_long) -> Outcome {
    let line = format!("{pid}\n");
    let written = unsafe { libc::write(fd, line.as_ptr().cast(), line.len()) };
    check(written as libc::c_long, "report the pid")?;
    Ok(())
}

fn become_vmm(plan: &Plan, go: i32) -> Outcome {
    let mut byte = 0u8;
    if unsafe { libc::read(go, ptr::addr_of_mut!(byte).cast(), 1) } != 1 {
        return Err("the pid was not reported".to_string());
    }
    check(unsafe { libc::setsid() }.into(), "setsid")?;
    prctl(libc::PR_SET_NAME, b"microvmd-jail\0".as_ptr() as libc::c_ulong, "name")?;
    slice::shorten();
    root::enter(plan)?;
    privileges::close_others(&plan.keep_fds)?;
    privileges::drop_all(plan)?;
    unsafe { libc::umask(0o077) };
    // Rust's start-up ignores it, and an ignored signal stays ignored over exec.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let mut argv: Vec<*const libc::c_char> = plan.command.iter().map(|word| word.as_ptr()).collect();
    argv.push(ptr::null());
    let environment: [*const libc::c_char; 1] = [ptr::null()];
    seccomp::apply(plan.seccomp, plan.vmm)?;
    unsafe { libc::execve(argv[0], argv.as_ptr(), environment.as_ptr()) };
    Err(format!(
        "exec {}: {}",
        plan.command[0].to_string_lossy(),
        std::io::Error::last_os_error()
    ))
}
