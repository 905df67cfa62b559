//! What the node asks for, from the command line:
//!
//! ```text
//! microvmd-jailer --root DIR --uid N --gid N --report-fd N
//!     [--cgroup PROCS_FILE]... [--bind SOURCE TARGET]... [--bind-writable SOURCE TARGET]...
//!     [--scratch TARGET] [--device NAME MAJOR MINOR]... [--rlimit NAME VALUE]... [--keep-fd N]...
//!     [--network NAMESPACE_FILE] [--vmm qemu|firecracker] [--seccomp enforce|log|off]
//!     -- PROGRAM ARGS...
//! ```

use crate::allowed::Vmm;
use crate::seccomp::Filter;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;

#[derive(Debug, PartialEq)]
pub struct Bind {
    pub source: CString,
    /// Path inside the root; a file of that name is there already.
    pub target: CString,
    pub writable: bool,
}

#[derive(Debug, PartialEq)]
pub struct Device {
    pub name: CString,
    pub major: u32,
    pub minor: u32,
}

#[derive(Debug, PartialEq)]
pub struct Limit {
    pub resource: u32,
    pub value: u64,
}

#[derive(Debug, PartialEq)]
pub struct Plan {
    pub root: CString,
    pub uid: u32,
    pub gid: u32,
    pub report_fd: i32,
    pub cgroups: Vec<CString>,
    pub binds: Vec<Bind>,
    /// A directory inside the root that becomes a small file system of the VMM's own.
    pub scratch: Option<CString>,
    pub devices: Vec<Device>,
    /// Without it the VMM has an empty network namespace.
    pub network: Option<CString>,
    pub vmm: Vmm,
    pub limits: Vec<Limit>,
    pub keep_fds: Vec<i32>,
    pub seccomp: Filter,
    pub command: Vec<CString>,
}

impl Plan {
    fn empty() -> Plan {
        Plan {
            root: CString::default(),
            uid: 0,
            gid: 0,
            report_fd: -1,
            cgroups: Vec::new(),
            binds: Vec::new(),
            scratch: None,
            devices: Vec::new(),
            network: None,
            vmm: Vmm::Qemu,
            limits: Vec::new(),
            keep_fds: Vec::new(),
            seccomp: Filter::Enforce,
            command: Vec::new(),
        }
    }
}

pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Plan, String> {
    let mut words = arguments.map(|word| {
        CString::new(word.into_vec()).map_err(|_| "an argument holds a zero byte".to_string())
    });
    let mut plan = Plan::empty();
    while let Some(option) = words.next() {
        let option = text(&option?)?;
        let mut word = || words.next().unwrap_or_else(|| Err(format!("{option} needs a value")));
        match option.as_str() {
            "--root" => plan.root = word()?,
            "--uid" => plan.uid = number(&word()?)?,
            "--gid" => plan.gid = number(&word()?)?,
            "--report-fd" => plan.report_fd = number(&word()?)?,
            "--cgroup" => plan.cgroups.push(word()?),
            "--bind" | "--bind-writable" => plan.binds.push(Bind {
                source: word()?,
                target: word()?,
                writable: option == "--bind-writable",
            }),
            "--device" => plan.devices.push(Device {
                name: word()?,
                major: number(&word()?)?,
                minor: number(&word()?)?,
            }),
            "--rlimit" => plan.limits.push(Limit {
                resource: resource(&text(&word()?)?)?,
                value: number(&word()?)?,
            }),
            "--keep-fd" => plan.keep_fds.push(number(&word()?)?),
            "--scratch" => plan.scratch = Some(word()?),
            "--network" => plan.network = Some(word()?),
            "--vmm" => plan.vmm = vmm(&text(&word()?)?)?,
            "--seccomp" => plan.seccomp = filter(&text(&word()?)?)?,
            "--" => {
                plan.command = words.collect::<Result<_, _>>()?;
                return check(plan);
            }
            _ => return Err(format!("unknown option {option}")),
        }
    }
    Err("no command after --".to_string())
}

fn check(plan: Plan) -> Result<Plan, String> {
    if plan.command.is_empty() {
        return Err("no command after --".to_string());
    }
    if plan.root.as_bytes().first() != Some(&b'/') {
        return Err("--root must be an absolute path".to_string());
    }
    // Nothing in a jail may run as root, or as nobody in particular.
    if plan.uid == 0 || plan.gid == 0 {
        return Err("--uid and --gid must be given and not be 0".to_string());
    }
    if plan.report_fd < 0 {
        return Err("--report-fd must be given".to_string());
    }
    Ok(plan)
}

fn text(word: &CString) -> Result<String, String> {
    word.to_str().map(str::to_string).map_err(|_| "an option is not UTF-8".to_string())
}

fn number<T: std::str::FromStr>(word: &CString) -> Result<T, String> {
    let word = text(word)?;
    word.parse().map_err(|_| format!("{word} is no number in range"))
}

fn filter(name: &str) -> Result<Filter, String> {
    match name {
        "enforce" => Ok(Filter::Enforce),
        "log" => Ok(Filter::Log),
        "off" => Ok(Filter::Off),
        _ => Err(format!("unknown filter {name}")),
    }
}

fn vmm(name: &str) -> Result<Vmm, String> {
    match name {
        "qemu" => Ok(Vmm::Qemu),
        "firecracker" => Ok(Vmm::Firecracker),
        _ => Err(format!("unknown VMM {name}")),
    }
}

fn resource(name: &str) -> Result<u32, String> {
    match name {
        "core" => Ok(libc::RLIMIT_CORE),
        "fsize" => Ok(libc::RLIMIT_FSIZE),
        "memlock" => Ok(libc::RLIMIT_MEMLOCK),
        "nofile" => Ok(libc::RLIMIT_NOFILE),
        _ => Err(format!("unknown limit {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, String> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn reads_all_options() {
        let plan = plan(
            "--root /r --uid 7 --gid 8 --report-fd 3 --cgroup /c --bind /a /b \
             --bind-writable /x /y --device null 1 3 --rlimit core 0 --keep-fd 5 -- /bin/q -S --root",
        )
        .unwrap();
        assert_eq!((plan.uid, plan.gid, plan.report_fd), (7, 8, 3));
        assert_eq!(plan.cgroups.len(), 1);
        assert!(!plan.binds[0].writable && plan.binds[1].writable);
        assert_eq!((plan.devices[0].major, plan.devices[0].minor), (1, 3));
        assert_eq!(plan.limits[0], Limit { resource: libc::RLIMIT_CORE, value: 0 });
        assert_eq!(plan.keep_fds, [5]);
        assert_eq!(plan.seccomp, Filter::Enforce);
        assert_eq!(plan.command.len(), 3);
    }

    #[test]
    fn reads_what_firecracker_needs() {
        let plan = plan(
            "--root /r --uid 7 --gid 8 --report-fd 3 --scratch /machine/run --network /run/n \
             --vmm firecracker -- /bin/f",
        )
        .unwrap();
        assert_eq!(plan.scratch.unwrap().to_str(), Ok("/machine/run"));
        assert_eq!(plan.network.unwrap().to_str(), Ok("/run/n"));
        assert_eq!(plan.vmm, Vmm::Firecracker);
    }

    #[test]
    fn refuses_what_would_not_be_a_jail() {
        let rest = "--report-fd 3 -- /bin/q";
        assert!(plan(&format!("--root /r --uid 0 --gid 8 {rest}")).is_err());
        assert!(plan(&format!("--root /r --gid 8 {rest}")).is_err());
        assert!(plan(&format!("--root r --uid 7 --gid 8 {rest}")).is_err());
        assert!(plan("--root /r --uid 7 --gid 8 -- /bin/q").is_err());
        assert!(plan("--root /r --uid 7 --gid 8 --report-fd 3 --").is_err());
        assert!(plan("--root /r --uid 7 --gid 8 --report-fd 3").is_err());
        assert!(plan(&format!("--root /r --uid -1 --gid 8 {rest}")).is_err());
        assert!(plan(&format!("--chroot /r {rest}")).is_err());
        assert!(plan(&format!("--root /r --uid 7 --gid 8 --seccomp none {rest}")).is_err());
        assert!(plan(&format!("--root /r --uid 7 --gid 8 --vmm none {rest}")).is_err());
        assert!(plan("--root").is_err());
    }
}
