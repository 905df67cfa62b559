//! The file systems of a container, made by its first process in a mount namespace of its own.
//!
//! The image may hold anything, links included: every target is opened as the image's own root
//! would resolve it, and mounted on through that descriptor.

use crate::boot::{APPLICATION, TERMINALS};
use crate::identity::BINDS;
use crate::sys::{self, Error, Result, Step};
use std::fs::File;
use std::os::unix::io::AsRawFd;

const LOCKED: u64 = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
const READ_ONLY_BIND: u64 = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];
/// As the OCI runtimes do without extra capabilities.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The root of an image, for making and mounting things in it.
struct Root(File);

impl Root {
    fn open(&self, path: &str, flags: i32) -> std::io::Result<File> {
        sys::open_in_root(&self.0, path, libc::O_PATH | flags)
    }

    /// The directory at `path`; what is missing is made, what is no directory is replaced.
    fn directory(&self, path: &str, mode: u32) -> Result<File> {
        let mut parent = self.open("/", libc::O_DIRECTORY).step("open the image's root")?;
        let mut walked = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            walked.push('/');
            walked.push_str(name);
            let step = || format!("make {walked} in the image");
            parent = match self.open(&walked, libc::O_DIRECTORY) {
                Ok(directory) => directory,
                Err(_) => {
                    let _ = sys::unlink_at(&parent, name);
                    sys::mkdir_at(&parent, name, mode).step(step())?;
                    self.open(&walked, libc::O_DIRECTORY).step(step())?
                }
            };
        }
        Ok(parent)
    }

    /// The regular file at `path`, made or put in the place of a link.
    fn file(&self, path: &str) -> Result<File> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.directory(parent, 0o755)?;
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        if let Ok(file) = sys::open_at(&parent, name, flags, 0) {
            let regular = file.metadata().map(|data| data.is_file()).unwrap_or(false);
            if regular {
                return Ok(file);
            }
            sys::unlink_at(&parent, name).step(format!("replace {path} in the image"))?;
        }
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
        sys::open_at(&parent, name, flags, 0o644).step(format!("make {path} in the image"))
    }

    fn mount(&self, kind: &str, path: &str, flags: u64, data: &str) -> Result<()> {
        let target = self.directory(path, 0o755)?;
        sys::mount(kind, &through(&target), kind, flags, data)
            .map_err(|error| Error::new(format!("mount {kind} on {path}"), error.cause))
    }

    fn bind(&self, source: &str, target: &File, path: &str) -> Result<()> {
        sys::mount(source, &through(target), "", libc::MS_BIND, "")
            .map_err(|error| Error::new(format!("bind {source} on {path}"), error.cause))
    }
}

fn through(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Makes the container's file systems and makes them the root of this process.
pub fn enter(all_capabilities: bool) -> Result<()> {
    sys::mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE, "")?;
    let root = Root(sys::open_directory(APPLICATION)?);
    root.mount("proc", "/proc", LOCKED, "")?;
    let read_only = if all_capabilities { 0 } else { libc::MS_RDONLY };
    root.mount("sysfs", "/sys", LOCKED | read_only, "")?;
    root.mount("cgroup2", "/sys/fs/cgroup", LOCKED | read_only, "")?;
    devices(&root, all_capabilities)?;
    root.directory("/tmp", 0o1777)?;
    for (source, path) in BINDS {
        // D-Bus's own copy matters only where the image has one that is no link.
        if path.starts_with("/var/") && !is_regular(&root, path) {
            continue;
        }
        // /proc is the kernel's: its boot_id is memory, the same in all clones of a snapshot.
        let target = if path.starts_with("/proc/") {
            root.open(path, libc::O_NOFOLLOW).step(format!("open {path}"))?
        } else {
            root.file(path)?
        };
        root.bind(source, &target, path)?;
    }
    pivot()?;
    if !all_capabilities {
        mask()?;
    }
    Ok(())
}

fn is_regular(root: &Root, path: &str) -> bool {
    match root.open(path, libc::O_NOFOLLOW) {
        Ok(file) => file.metadata().map(|data| data.is_file()).unwrap_or(false),
        Err(_) => false,
    }
}

fn devices(root: &Root, all_capabilities: bool) -> Result<()> {
    if all_capabilities {
        // Everything the kernel has: loop, fuse, further disks.
        root.mount("devtmpfs", "/dev", libc::MS_NOSUID | libc::MS_NOEXEC, "mode=0755")?;
    } else {
        // Device nodes that a root in the container makes stay closed (nodev); the known ones
        // are bound from the agent's /dev.
        let flags = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
        root.mount("tmpfs", "/dev", flags, "mode=0755,size=64k")?;
        for name in DEVICES {
            let path = format!("/dev/{name}");
            root.bind(&path, &root.file(&path)?, &path)?;
        }
    }
    let terminals = root.directory("/dev/pts", 0o755)?;
    root.bind(TERMINALS, &terminals, "/dev/pts")?;
    root.mount("tmpfs", "/dev/shm", LOCKED, "mode=1777")?;
    root.mount("mqueue", "/dev/mqueue", LOCKED, "")
}

fn pivot() -> Result<()> {
    std::env::set_current_dir(APPLICATION).step("enter the image")?;
    let dot = b".\0".as_ptr() as *const libc::c_char;
    sys::check(unsafe { libc::syscall(libc::SYS_pivot_root, dot, dot) }).step("pivot_root")?;
    sys::check(unsafe { libc::umount2(dot, libc::MNT_DETACH) }).step("leave the old root")?;
    std::env::set_current_dir("/").step("enter the new root")?;
    for (to, at) in LINKS {
        let _ = std::fs::remove_file(at);
        std::os::unix::fs::symlink(to, at).step(format!("link {at}"))?;
    }
    Ok(())
}

fn mask() -> Result<()> {
    for path in READ_ONLY {
        if std::fs::metadata(path).is_ok() {
            sys::mount(path, path, "", libc::MS_BIND | libc::MS_REC, "")?;
            sys::mount("", path, "", READ_ONLY_BIND | LOCKED, "")?;
        }
    }
    for path in MASKED {
        match std::fs::metadata(path) {
            Ok(data) if data.is_dir() => {
                sys::mount("tmpfs", path, "tmpfs", LOCKED | libc::MS_RDONLY, "size=0")?
            }
            Ok(_) => sys::mount("/dev/null", path, "", libc::MS_BIND, "")?,
            Err(_) => {}
        }
    }
    Ok(())
}
