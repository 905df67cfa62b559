//! The guest's one address, the same in every MicroVM, and which ports are listened on.

use crate::sys::{self, Result, Step};
use std::collections::BTreeSet;
use std::fs;
use std::os::raw::{c_char, c_ulong};
use std::os::unix::io::{AsRawFd, RawFd};

const ADDRESS: [u8; 4] = [172, 16, 0, 2];
const GATEWAY: [u8; 4] = [172, 16, 0, 1];
const NETMASK: [u8; 4] = [255, 255, 255, 252];
/// /proc/net/tcp is one line a socket; a guest can make it long, not endless for us.
const MAX_TABLE: u64 = 4 * 1024 * 1024;
const LISTEN: &str = "0A";

/// struct ifreq with the members that are used here.
#[repr(C)]
struct Request {
    name: [c_char; 16],
    data: [u8; 24],
}

fn request(interface: &str, data: &[u8]) -> Request {
    let mut request = Request { name: [0; 16], data: [0; 24] };
    for (place, byte) in request.name.iter_mut().zip(interface.bytes()) {
        *place = byte as c_char;
    }
    request.data[..data.len()].copy_from_slice(data);
    request
}

/// struct sockaddr_in: family, port 0, address.
fn socket_address(address: [u8; 4]) -> [u8; 16] {
    let mut out = [0u8; 16];
    out[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    out[4..8].copy_from_slice(&address);
    out
}

fn control<T>(socket: RawFd, code: c_ulong, argument: &T, step: &str) -> Result<()> {
    sys::check(unsafe { libc::ioctl(socket, code, argument as *const T) }).map(|_| ()).step(step)
}

fn bring_up(socket: RawFd, interface: &str) -> Result<()> {
    let flags = ((libc::IFF_UP | libc::IFF_RUNNING) as u16).to_ne_bytes();
    let step = format!("bring {interface} up");
    control(socket, libc::SIOCSIFFLAGS as c_ulong, &request(interface, &flags), &step)
}

fn setting(path: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/net/{path}"), value).step(format!("write {path}"))
}

pub fn configure() -> Result<()> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let socket = sys::check(unsafe { libc::socket(libc::AF_INET, kind, 0) }).step("socket")?;
    let socket = sys::owned(socket);
    let fd = socket.as_raw_fd();
    for scope in ["all", "default"] {
        // A kernel without IPv6 has no such file, and no IPv6.
        let _ = setting(&format!("ipv6/conf/{scope}/disable_ipv6"), "1");
    }
    bring_up(fd, "lo")?;
    // As container runtimes do: an application that is not root may listen on port 80.
    setting("ipv4/ip_unprivileged_port_start", "0")?;
    if fs::metadata("/sys/class/net/eth0").is_err() {
        return Ok(());
    }
    let address = request("eth0", &socket_address(ADDRESS));
    control(fd, libc::SIOCSIFADDR as c_ulong, &address, "set the address of eth0")?;
    let netmask = request("eth0", &socket_address(NETMASK));
    control(fd, libc::SIOCSIFNETMASK as c_ulong, &netmask, "set the netmask of eth0")?;
    bring_up(fd, "eth0")?;
    // The node's network rewrites edge connections to 127.0.0.1, so that servers that listen
    // there only are reachable.
    setting("ipv4/conf/eth0/route_localnet", "1")?;
    add_default_route(fd)
}

fn add_default_route(socket: RawFd) -> Result<()> {
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    let address =
        |ip| unsafe { std::mem::transmute::<[u8; 16], libc::sockaddr>(socket_address(ip)) };
    route.rt_dst = address([0, 0, 0, 0]);
    route.rt_genmask = address([0, 0, 0, 0]);
    route.rt_gateway = address(GATEWAY);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    control(socket, libc::SIOCADDRT as c_ulong, &route, "add the default route")
}

/// TCP ports with a listener, in any address family.
pub fn listening() -> Result<Vec<u16>> {
    let mut ports = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let file = match fs::File::open(table) {
            Ok(file) => file,
            Err(_) => continue,
        };
        let bytes = sys::read_bounded(&file, MAX_TABLE).step(format!("read {table}"))?;
        ports.extend(listeners(&String::from_utf8_lossy(&bytes)));
    }
    Ok(ports.into_iter().collect())
}

fn listeners(table: &str) -> impl Iterator<Item = u16> + '_ {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next()?;
        let state = fields.nth(1)?;
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (state == LISTEN).then(|| port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_among_connections() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
            1: 0100007F:1F91 0100007F:9000 01 00000000:00000000\n\
            2: 00000000000000000000000000000000:0050 0000:0000 0A 0\n\
            3: broken\n";
        assert_eq!(listeners(table).collect::<Vec<_>>(), [8080, 80]);
    }
}
