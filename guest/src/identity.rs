//! What makes a clone itself: host name, machine id, boot id, clock and randomness.
//!
//! The files live in the agent's tmpfs and are bound into containers, so that a restore changes
//! them by a write to a file that is open already: no path walk, no disk, no link of the image.

use crate::sys::{self, Error, Result, Step};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::io::AsRawFd;

/// Where each file of the agent appears in the image's root.
pub const BINDS: [(&str, &str); 6] = [
    ("/identity/hostname", "/etc/hostname"),
    ("/identity/hosts", "/etc/hosts"),
    ("/identity/resolv.conf", "/etc/resolv.conf"),
    ("/identity/machine-id", "/etc/machine-id"),
    ("/identity/machine-id", "/var/lib/dbus/machine-id"),
    ("/identity/boot_id", "/proc/sys/kernel/random/boot_id"),
];

const KERNEL_BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const RESOLVER: &str = "nameserver 172.16.0.1\n";
const GUEST_ADDRESS: &str = "172.16.0.2";
const MAX_SEED: usize = 512;
const MIN_SEED: usize = 32;
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

pub struct Identity {
    hostname: File,
    hosts: File,
    machine_id: File,
    boot_id: File,
    random: File,
    current_machine_id: String,
}

/// struct rand_pool_info of random(4).
#[repr(C)]
struct Seed {
    entropy_bits: i32,
    size: i32,
    bytes: [u8; MAX_SEED],
}

fn create(name: &str) -> Result<File> {
    let path = format!("/identity/{name}");
    let mut options = std::fs::OpenOptions::new();
    let options = options.read(true).write(true).create(true);
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o644)
        .open(&path)
        .step(format!("create {path}"))
}

fn replace(file: &File, text: &str) -> io::Result<()> {
    file.write_all_at(text.as_bytes(), 0)?;
    // Clones have names of one length: then the size stays, and truncating is left out, which
    // costs milliseconds the first time under emulation.
    if file.metadata()?.len() != text.len() as u64 {
        file.set_len(text.len() as u64)?;
    }
    Ok(())
}

fn read_line(file: &File) -> io::Result<String> {
    let mut bytes = [0u8; 128];
    let count = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).trim_end().to_string())
}

pub fn valid_hostname(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    !name.is_empty() && name.len() <= 64 && name.bytes().all(allowed)
}

pub fn valid_boot_id(id: &str) -> bool {
    let fits = |(place, byte): (usize, u8)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    id.len() == 36 && id.bytes().enumerate().all(fits)
}

pub fn valid_machine_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Identity {
    pub fn new() -> Result<Identity> {
        replace(&create("resolv.conf")?, RESOLVER).step("write resolv.conf")?;
        let mut identity = Identity {
            hostname: create("hostname")?,
            hosts: create("hosts")?,
            machine_id: create("machine-id")?,
            boot_id: create("boot_id")?,
            random: std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/urandom")
                .step("open urandom")?,
            current_machine_id: String::new(),
        };
        identity.assume("localhost", &"0".repeat(32), None)?;
        let boot_id = std::fs::read_to_string(KERNEL_BOOT_ID).step("read the boot id")?;
        replace(&identity.boot_id, &boot_id).step("write the boot id")?;
        Ok(identity)
    }

    /// Takes the name and ids. Where no boot id is given, a new machine id means a new one.
    pub fn assume(
        &mut self,
        hostname: &str,
        machine_id: &str,
        boot_id: Option<&str>,
    ) -> Result<()> {
        sys::set_hostname(hostname)?;
        let name = if hostname == "localhost" {
            String::new()
        } else {
            format!("{GUEST_ADDRESS} {hostname}\n")
        };
        replace(&self.hostname, &format!("{hostname}\n")).step("write hostname")?;
        replace(&self.hosts, &format!("127.0.0.1 localhost\n{name}")).step("write hosts")?;
        let fresh = machine_id != self.current_machine_id;
        if fresh {
            replace(&self.machine_id, &format!("{machine_id}\n")).step("write machine-id")?;
            self.current_machine_id = machine_id.to_string();
        }
        let drawn = match boot_id {
            None if fresh => Some(self.random_uuid().step("make a boot id")?),
            given => given.map(str::to_string),
        };
        if let Some(boot_id) = drawn {
            replace(&self.boot_id, &format!("{boot_id}\n")).step("write the boot id")?;
        }
        Ok(())
    }

    /// (host name, machine id, boot id) as processes of the guest read them.
    pub fn read_back(&self) -> Result<(String, String, String)> {
        let mut name = [0u8; 65];
        sys::check(unsafe { libc::gethostname(name.as_mut_ptr() as *mut _, 64) })
            .step("gethostname")?;
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(64);
        let name = String::from_utf8_lossy(&name[..length]).to_string();
        let machine_id = read_line(&self.machine_id).step("read machine-id")?;
        let boot_id = read_line(&self.boot_id).step("read the boot id")?;
        Ok((name, machine_id, boot_id))
    }

    /// Random bytes as any process of the guest would get them now, in hexadecimal digits.
    pub fn sample(&self) -> io::Result<String> {
        let mut bytes = [0u8; 16];
        io::Read::read_exact(&mut &self.random, &mut bytes)?;
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn random_uuid(&self) -> io::Result<String> {
        let mut bytes = [0u8; 16];
        io::Read::read_exact(&mut &self.random, &mut bytes)?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
    }

    /// Mixes the host's bytes in, counts them as entropy, and makes every CPU start from them:
    /// without it, clones of one snapshot were shown to return the same random bytes.
    pub fn reseed(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() < MIN_SEED || bytes.len() > MAX_SEED {
            return Err(Error::errno("reseed", libc::EINVAL));
        }
        let mut seed = Seed {
            entropy_bits: bytes.len() as i32 * 8,
            size: bytes.len() as i32,
            bytes: [0; MAX_SEED],
        };
        seed.bytes[..bytes.len()].copy_from_slice(bytes);
        let fd = self.random.as_raw_fd();
        sys::check(unsafe { libc::ioctl(fd, RNDADDENTROPY, &seed) }).step("RNDADDENTROPY")?;
        sys::check(unsafe { libc::ioctl(fd, RNDRESEEDCRNG) }).step("RNDRESEEDCRNG")?;
        Ok(())
    }
}

pub fn set_clock(unix_nanos: i64) -> Result<()> {
    let time = libc::timespec {
        tv_sec: unix_nanos.div_euclid(1_000_000_000),
        tv_nsec: unix_nanos.rem_euclid(1_000_000_000),
    };
    sys::check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) })
        .map(|_| ())
        .step("set the clock")
}

pub fn unix_nanos() -> i64 {
    let (seconds, nanos) = sys::seconds_and_nanos(libc::CLOCK_REALTIME);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Standard base64 with padding; anything else is `None`.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if bytes.len() % 4 != 0 {
        return None;
    }
    let padding = bytes.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(bytes.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in &bytes[..bytes.len() - padding] {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_or_refused() {
        assert_eq!(base64("aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(base64("aGVsbG8h"), Some(b"hello!".to_vec()));
        assert_eq!(base64(""), Some(Vec::new()));
        for text in ["a", "a===", "=abc", "a_bc", "abc\n"] {
            assert_eq!(base64(text), None, "{}", text);
        }
    }

    #[test]
    fn names_and_ids_are_checked() {
        assert!(valid_hostname("microvm-12ab.x"));
        assert!(!valid_hostname("") && !valid_hostname("a b") && !valid_hostname(&"a".repeat(65)));
        assert!(valid_machine_id(&"0a".repeat(16)));
        assert!(!valid_machine_id(&"0A".repeat(16)) && !valid_machine_id("0a"));
        assert!(valid_boot_id("0a1b2c3d-0000-4000-8000-0123456789ab"));
        assert!(!valid_boot_id("0a1b2c3d000004000080000123456789abcd"));
        assert!(!valid_boot_id("0A1b2c3d-0000-4000-8000-0123456789ab") && !valid_boot_id(""));
    }
}
