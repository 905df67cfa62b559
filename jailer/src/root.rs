//! The file system of the jail: a shared read-only root, this VM's files bound over placeholders,
//! a /dev of its own. The host's file system is unmounted before the VMM runs.

use crate::plan::{Bind, Device, Plan};
use crate::sys::{check, mount, Outcome};
use std::ffi::{CStr, CString};

/// Room for sockets and a device state.
const SCRATCH_OPTIONS: &str = "mode=0700,size=16m,nr_inodes=64";
const DEV_OPTIONS: &[u8] = b"mode=0755,size=4k,nr_inodes=16\0";

pub fn enter(plan: &Plan) -> Outcome {
    // Nothing mounted here may appear on the host.
    mount(None, c(b"/\0"), None, libc::MS_REC | libc::MS_PRIVATE, None)?;
    mount(Some(&plan.root), &plan.root, None, libc::MS_BIND, None)?;
    restrict(&plan.root, libc::MS_RDONLY | libc::MS_NODEV)?;
    for item in &plan.binds {
        bind(plan, item)?;
    }
    scratch(plan)?;
    devices(plan)?;
    check(unsafe { libc::chdir(plan.root.as_ptr()) }.into(), "chdir to the root")?;
    // Both arguments the same: the old root ends up on top of the new one and is detached there.
    check(
        unsafe { libc::syscall(libc::SYS_pivot_root, c(b".\0").as_ptr(), c(b".\0").as_ptr()) },
        "pivot_root",
    )?;
    check(unsafe { libc::umount2(c(b".\0").as_ptr(), libc::MNT_DETACH) }.into(), "umount")?;
    check(unsafe { libc::chdir(c(b"/\0").as_ptr()) }.into(), "chdir to /")?;
    Ok(())
}

/// A bind mount takes its flags only when it is mounted again.
fn restrict(target: &CStr, flags: libc::c_ulong) -> Outcome {
    let always = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_NOSUID;
    mount(None, target, None, always | flags, None)
}

fn bind(plan: &Plan, item: &Bind) -> Outcome {
    let target = inside(&plan.root, &item.target)?;
    mount(Some(&item.source), &target, None, libc::MS_BIND, None)?;
    let access = if item.writable { 0 } else { libc::MS_RDONLY };
    restrict(&target, access | libc::MS_NODEV | libc::MS_NOEXEC)
}

fn scratch(plan: &Plan) -> Outcome {
    let target = match &plan.scratch {
        Some(target) => inside(&plan.root, target)?,
        None => return Ok(()),
    };
    let options = format!("{SCRATCH_OPTIONS},uid={},gid={}", plan.uid, plan.gid);
    let options = CString::new(options).map_err(|error| error.to_string())?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(Some(c(b"scratch\0")), &target, Some(c(b"tmpfs\0")), flags, Some(&options))
}

fn devices(plan: &Plan) -> Outcome {
    let dev = inside(&plan.root, c(b"/dev\0"))?;
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    mount(Some(c(b"dev\0")), &dev, Some(c(b"tmpfs\0")), flags, Some(c(DEV_OPTIONS)))?;
    for device in &plan.devices {
        make(plan, device)?;
    }
    mount(None, &dev, None, libc::MS_REMOUNT | flags | libc::MS_RDONLY, Some(c(DEV_OPTIONS)))
}

fn make(plan: &Plan, device: &Device) -> Outcome {
    let mut path = b"/dev/".to_vec();
    path.extend_from_slice(device.name.as_bytes());
    let path = inside(&plan.root, &CString::new(path).map_err(|error| error.to_string())?)?;
    let name = path.to_string_lossy();
    if let Some((directory, _)) = name.rsplit_once('/') {
        // Of a name like net/tun; /dev itself is there.
        let directory = CString::new(directory).map_err(|error| error.to_string())?;
        unsafe { libc::mkdir(directory.as_ptr(), 0o755) };
    }
    let number = libc::makedev(device.major, device.minor);
    check(
        unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o600, number) }.into(),
        &name,
    )?;
    check(unsafe { libc::chown(path.as_ptr(), plan.uid, plan.gid) }.into(), &name)?;
    Ok(())
}

fn inside(root: &CStr, path: &CStr) -> Outcome<CString> {
    let mut joined = root.to_bytes().to_vec();
    joined.extend_from_slice(path.to_bytes());
    CString::new(joined).map_err(|error| error.to_string())
}

fn c(text: &'static [u8]) -> &'static CStr {
    CStr::from_bytes_with_nul(text).expect("a constant that ends with zero")
}
