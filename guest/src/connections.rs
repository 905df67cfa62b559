//! Ends the TCP connections that a restore has cut.
//!
//! The other side went away with the suspend, or never knew this clone; without help a reader
//! would wait for hours, and a server's worker for ever. As on the real service, whoever uses such
//! a connection gets ECONNABORTED (sock_diag(7), SOCK_DESTROY). The loopback stays.

use crate::sys::{self, Result, Step};
use std::fs::File;
use std::io;
use std::os::raw::c_int;
use std::os::unix::io::AsRawFd;

const NETLINK_SOCK_DIAG: c_int = 4;
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const HEADER: usize = 16;
const TCP: u8 = 6;
/// All states with another side: not LISTEN (10), and not TIME_WAIT (6), which is over.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// struct inet_diag_sockid: ports, addresses, interface, cookie.
const ID: usize = 48;
/// Where it stands in an inet_diag_msg.
const ID_AT: usize = 4;
const BUFFER: usize = 32 * 1024;
/// A guest can open many connections, not make us keep endlessly many.
const MOST: usize = 65536;

type Id = [u8; ID];

/// Says how many there were. A kernel without tcp_diag cannot: then they end by their own timers.
pub fn cut() -> Result<usize> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    let made = unsafe { libc::socket(libc::AF_NETLINK, kind, NETLINK_SOCK_DIAG) };
    let socket = sys::owned(sys::check(made).step("open sock_diag")?);
    let mut ended = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        send(&socket, &message(BY_FAMILY, DUMP, family, &[0; ID])).step("list connections")?;
        for id in answers(&socket, family).step("read connections")? {
            send(&socket, &message(DESTROY, 0, family, &id)).step("end a connection")?;
            ended += 1;
        }
    }
    Ok(ended)
}

/// struct nlmsghdr and struct inet_diag_req_v2.
fn message(kind: u16, flags: u16, family: u8, id: &Id) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + 8 + ID);
    out.extend(((HEADER + 8 + ID) as u32).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((REQUEST | flags).to_ne_bytes());
    out.extend([0; 8]);
    out.extend([family, TCP, 0, 0]);
    out.extend(STATES.to_ne_bytes());
    out.extend(id);
    out
}

fn send(socket: &File, bytes: &[u8]) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    sys::check(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), 0) } as i64).map(|_| ())
}

fn answers(socket: &File, family: u8) -> io::Result<Vec<Id>> {
    let mut found = Vec::new();
    let mut buffer = vec![0u8; BUFFER];
    loop {
        let fd = socket.as_raw_fd();
        let got = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let length = sys::check(got as i64)? as usize;
        if !read(&buffer[..length], family, &mut found)? {
            return Ok(found);
        }
    }
}

/// Collects what one datagram lists; false when the list ends with it.
fn read(bytes: &[u8], family: u8, found: &mut Vec<Id>) -> io::Result<bool> {
    let mut rest = bytes;
    while rest.len() >= HEADER {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let kind = u16::from_ne_bytes([rest[4], rest[5]]);
        if length < HEADER || length > rest.len() {
            break;
        }
        let payload = &rest[HEADER..length];
        match kind {
            DONE => return Ok(false),
            // A refused DESTROY answers too: the connection ended by itself meanwhile.
            ERROR => {
                let code = payload
                    .get(..4)
                    .map(|code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]]));
                match code {
                    Some(code) if -code != libc::ENOENT => {
                        return Err(io::Error::from_raw_os_error(-code))
                    }
                    _ => {}
                }
            }
            _ => {
                if let Some(id) = payload.get(ID_AT..ID_AT + ID) {
                    if found.len() < MOST && !is_loopback(family, id) {
                        let mut own = [0; ID];
                        own.copy_from_slice(id);
                        found.push(own);
                    }
                }
            }
        }
        rest = &rest[((length + 3) & !3).min(rest.len())..];
    }
    Ok(true)
}

/// Whether the other side's address is this machine itself.
fn is_loopback(family: u8, id: &[u8]) -> bool {
    let other = &id[20..36];
    if c_int::from(family) == libc::AF_INET {
        return other[0] == 127;
    }
    let mapped = other[..10] == [0; 10] && other[10..12] == [0xff; 2];
    (mapped && other[12] == 127) || (other[..15] == [0; 15] && other[15] == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(other: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(88u32.to_ne_bytes());
        out.extend(BY_FAMILY.to_ne_bytes());
        out.extend([0; 10]);
        out.extend([0; ID_AT]);
        let mut id = [0u8; ID];
        id[20..20 + other.len()].copy_from_slice(other);
        out.extend(id);
        out.extend([0; 20]);
        out
    }

    fn ended(kind: u16, code: i32) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(20u32.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend(code.to_ne_bytes());
        out
    }

    #[test]
    fn what_leads_outside_is_found() {
        let mapped = |address: [u8; 4]| [&[0; 10][..], &[0xff; 2], &address].concat();
        let mut one = [0; 16];
        one[15] = 1;
        let (v4, v6) = (libc::AF_INET as u8, libc::AF_INET6 as u8);
        let cases: [(u8, &[u8], usize); 6] = [
            (v4, &[172, 16, 0, 1], 1),
            (v4, &[127, 0, 0, 1], 0),
            (v4, &[127, 8, 9, 1], 0),
            (v6, &mapped([10, 0, 0, 1]), 1),
            (v6, &mapped([127, 0, 0, 1]), 0),
            (v6, &one, 0),
        ];
        for (family, other, count) in cases {
            let mut found = Vec::new();
            assert!(read(&listed(other), family, &mut found).unwrap());
            assert_eq!(found.len(), count, "{other:?}");
        }
    }

    #[test]
    fn a_list_ends_and_may_fail() {
        let mut found = Vec::new();
        let family = libc::AF_INET as u8;
        let whole = [listed(&[10, 0, 0, 1]), listed(&[10, 0, 0, 2]), ended(DONE, 0)].concat();
        assert!(!read(&whole, family, &mut found).unwrap());
        assert_eq!(found.len(), 2);
        assert!(read(&ended(ERROR, -libc::ENOENT), family, &mut found).unwrap());
        assert!(read(&ended(ERROR, -libc::EOPNOTSUPP), family, &mut found).is_err());
        for end in 0..whole.len() {
            let _ = read(&whole[..end], family, &mut Vec::new());
        }
    }

    #[test]
    fn a_request_is_as_the_kernel_reads_it() {
        let bytes = message(DESTROY, 0, libc::AF_INET as u8, &[7; ID]);
        assert_eq!(bytes.len(), 72);
        assert_eq!(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), 72);
        assert_eq!(bytes[24..], [7; ID]);
    }
}
