//! Giving up all rights, for good.

use crate::plan::Plan;
use crate::sys::{check, prctl, Outcome};
use std::ptr;

/// More than any kernel has; the first unknown one ends the loop.
const MOST_CAPABILITIES: libc::c_ulong = 64;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

pub fn drop_all(plan: &Plan) -> Outcome {
    for limit in &plan.limits {
        let both = libc::rlimit { rlim_cur: limit.value, rlim_max: limit.value };
        check(unsafe { libc::setrlimit(limit.resource, &both) }.into(), "setrlimit")?;
    }
    for capability in 0..MOST_CAPABILITIES {
        if prctl(libc::PR_CAPBSET_DROP, capability, "bounding set").is_err() {
            break;
        }
    }
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
        "ambient capabilities",
    )?;
    check(unsafe { libc::setgroups(0, ptr::null()) }.into(), "setgroups")?;
    check(unsafe { libc::setresgid(plan.gid, plan.gid, plan.gid) }.into(), "setresgid")?;
    check(unsafe { libc::setresuid(plan.uid, plan.uid, plan.uid) }.into(), "setresuid")?;
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let nothing = [0u32; 6];
    check(unsafe { libc::syscall(libc::SYS_capset, &header, &nothing) }, "capset")?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
}

/// Closes everything but the standard streams and `kept`.
pub fn close_others(kept: &[i32]) -> Outcome {
    let mut kept: Vec<u32> = kept.iter().map(|fd| *fd as u32).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    let mut first = 3u32;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Outcome {
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }, "close_range")?;
    Ok(())
}
