//! Which user a container's process is, and what it may do.

use crate::sys::{self, Error, Result, Step};
use std::fs::File;
use std::os::raw::{c_int, c_ulong};

/// Larger tables of users are not read: the image is not trusted.
const MAX_TABLE: u64 = 4 * 1024 * 1024;
/// What container runtimes grant by default, and the real service too: chown, dac_override,
/// fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod,
/// audit_write, setfcap.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;
const MAX_CAPABILITY: u32 = 63;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// The real service's limit of open files, hard and soft.
const OPEN_FILES: u64 = 1024;

#[derive(Debug, PartialEq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

fn table(path: &str) -> Result<String> {
    match File::open(path) {
        Ok(file) => sys::read_bounded(&file, MAX_TABLE)
            .map(|bytes| String::from_utf8_lossy(&bytes).to_string())
            .step(format!("read {path}")),
        Err(_) => Ok(String::new()),
    }
}

/// Resolves "uid", "uid:gid", "name" or "name:group" against the image's own tables.
pub fn resolve(user: &str) -> Result<User> {
    find(user, &table("/etc/passwd")?, &table("/etc/group")?)
        .ok_or_else(|| Error::errno(format!("find user {user}"), libc::ESRCH))
}

fn find(user: &str, passwd: &str, group: &str) -> Option<User> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group_name)) => (name, Some(group_name)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = name.parse::<u32>().ok();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 6 && (fields[0] == name || (number.is_some() && fields[2] == name))
    });
    let uid = match (&entry, number) {
        (Some(fields), _) => fields[2].parse().ok()?,
        (None, Some(number)) => number,
        (None, None) => return None,
    };
    let own_gid = entry.as_ref().and_then(|fields| fields[3].parse().ok()).unwrap_or(0);
    let login = entry.as_ref().map_or("", |fields| fields[0]);
    let gid = match group_name {
        Some(wanted) if !wanted.is_empty() => match find_group(wanted, group) {
            Some(gid) => gid,
            None => wanted.parse().ok()?,
        },
        _ => own_gid,
    };
    // As runtimes do: a group that is named replaces the memberships.
    let groups = if group_name.is_some() { Vec::new() } else { memberships(login, group) };
    let home = entry.as_ref().map_or("", |fields| fields[5]);
    let fallback = if uid == 0 { "/root" } else { "/" };
    let home = if home.is_empty() { fallback } else { home };
    Some(User { uid, gid, groups, home: home.to_string() })
}

fn find_group(name: &str, group: &str) -> Option<u32> {
    let mut entries = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    entries.find(|fields| fields.len() >= 3 && fields[0] == name)?[2].parse().ok()
}

fn memberships(login: &str, group: &str) -> Vec<u32> {
    if login.is_empty() {
        return Vec::new();
    }
    let entries = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    entries
        .filter(|fields| fields.len() >= 4 && fields[3].split(',').any(|member| member == login))
        .filter_map(|fields| fields[2].parse().ok())
        .collect()
}

/// struct __user_cap_header_struct and two of __user_cap_data_struct.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Becomes the user for good: limits, bounding set, groups, ids, capabilities, in that order.
pub fn become_user(user: &User, all_capabilities: bool) -> Result<()> {
    let files = libc::rlimit { rlim_cur: OPEN_FILES, rlim_max: OPEN_FILES };
    sys::check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &files) }).step("setrlimit")?;
    let granted =
        if all_capabilities { bounding_set() } else { DEFAULT_CAPABILITIES & bounding_set() };
    for capability in 0..=MAX_CAPABILITY {
        if granted >> capability & 1 == 0 && in_bounding_set(capability) {
            let drop =
                unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as c_ulong, 0, 0, 0) };
            sys::check(drop).step("drop a capability")?;
        }
    }
    let (groups, uid, gid) = (&user.groups, user.uid, user.gid);
    sys::check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }).step("setgroups")?;
    sys::check(unsafe { libc::setresgid(gid, gid, gid) }).step("setresgid")?;
    sys::check(unsafe { libc::setresuid(uid, uid, uid) }).step("setresuid")?;
    if uid == 0 {
        set_capabilities(granted).step("capset")?;
    }
    Ok(())
}

fn in_bounding_set(capability: u32) -> bool {
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability as c_ulong, 0, 0, 0) == 1 }
}

fn bounding_set() -> u64 {
    (0..=MAX_CAPABILITY).filter(|c| in_bounding_set(*c)).fold(0, |set, c| set | 1 << c)
}

fn set_capabilities(granted: u64) -> std::io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |bits: u32| CapabilityData { effective: bits, permitted: bits, inheritable: 0 };
    let data = [half(granted as u32), half((granted >> 32) as u32)];
    sys::check(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) }).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:\nbad\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:app,other\napp:x:1001:\nvideo:x:44:other\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> Option<User> {
        Some(User { uid, gid, groups: groups.to_vec(), home: home.to_string() })
    }

    #[test]
    fn users_are_found_as_runtimes_find_them() {
        for (text, expected) in [
            ("", user(0, 0, &[], "/root")),
            ("app", user(1000, 1001, &[50], "/home/app")),
            ("1000", user(1000, 1001, &[50], "/home/app")),
            ("app:staff", user(1000, 50, &[], "/home/app")),
            ("1000:7", user(1000, 7, &[], "/home/app")),
            ("4242", user(4242, 0, &[], "/")),
            ("4242:4243", user(4242, 4243, &[], "/")),
            ("nobody", None),
            ("app:nogroup", None),
            ("-1", None),
        ] {
            assert_eq!(find(text, PASSWD, GROUP), expected, "{}", text);
        }
    }

    #[test]
    fn an_image_without_tables_knows_numbers_only() {
        assert_eq!(find("0", "", ""), user(0, 0, &[], "/root"));
        assert_eq!(find("12:34", "", ""), user(12, 34, &[], "/"));
        assert_eq!(find("app", "", ""), None);
    }
}
