//! The way to the node: a virtio-serial port, or a vsock port on which the node connects.
//!
//! A port is one file for ever, at whose end somebody is or is not. A vsock is a stream for each
//! connection; the VMM resets it with every snapshot, and the listener stays.

use crate::sys::{self, Result, Step};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::io::{AsRawFd, RawFd};

/// src/microvmd/vmm/agent_door.py
pub const VSOCK_PORT: u32 = 1024;
const BACKLOG: i32 = 4;

pub enum Channel {
    Port(File),
    Vsock { listener: File, stream: Option<File> },
}

impl Channel {
    pub fn listen() -> Result<Channel> {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let fd = sys::check(unsafe { libc::socket(libc::AF_VSOCK, kind, 0) }).step("vsock")?;
        let listener = sys::owned(fd);
        let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        address.svm_family = libc::AF_VSOCK as u16;
        address.svm_port = VSOCK_PORT;
        address.svm_cid = libc::VMADDR_CID_ANY;
        let size = std::mem::size_of_val(&address) as u32;
        let pointer = &address as *const _ as *const libc::sockaddr;
        let fd = listener.as_raw_fd();
        sys::check(unsafe { libc::bind(fd, pointer, size) }).step("bind the vsock")?;
        sys::check(unsafe { libc::listen(fd, BACKLOG) }).step("listen on the vsock")?;
        Ok(Channel::Vsock { listener, stream: None })
    }

    /// What tells that something has changed: watched from the start.
    pub fn watched(&self) -> RawFd {
        match self {
            Channel::Port(port) => port.as_raw_fd(),
            Channel::Vsock { listener, .. } => listener.as_raw_fd(),
        }
    }

    /// The next connection of the node, which has to be watched, too, if there is none now.
    pub fn accept(&mut self) -> Option<RawFd> {
        let (listener, stream) = match self {
            Channel::Vsock { listener, stream: stream @ None } => (listener, stream),
            _ => return None,
        };
        loop {
            let (accepted, peer) = accept_from(listener).ok()?;
            // Nothing in the guest may speak for the node.
            if peer == libc::VMADDR_CID_HOST {
                let fd = accepted.as_raw_fd();
                *stream = Some(accepted);
                return Some(fd);
            }
        }
    }

    /// The connection is over; a port has none that could be.
    pub fn hang_up(&mut self) -> bool {
        match self {
            Channel::Port(_) => false,
            Channel::Vsock { stream, .. } => {
                *stream = None;
                true
            }
        }
    }

    fn stream(&self) -> io::Result<&File> {
        match self {
            Channel::Port(port) => Ok(port),
            Channel::Vsock { stream, .. } => {
                stream.as_ref().ok_or_else(|| io::ErrorKind::WouldBlock.into())
            }
        }
    }
}

fn accept_from(listener: &File) -> io::Result<(File, u32)> {
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    let mut size = std::mem::size_of_val(&address) as u32;
    let pointer = &mut address as *mut _ as *mut libc::sockaddr;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let fd =
        sys::check(unsafe { libc::accept4(listener.as_raw_fd(), pointer, &mut size, flags) })?;
    Ok((sys::owned(fd), address.svm_cid))
}

impl Read for &Channel {
    /// Nothing, where a connection was reset: that is its end as well.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.stream()?.read(bytes) {
            Err(cause) if ends(self, &cause) => Ok(0),
            result => result,
        }
    }
}

impl Write for &Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn ends(channel: &Channel, cause: &io::Error) -> bool {
    let passing = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
    matches!(channel, Channel::Vsock { .. }) && !passing.contains(&cause.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Channel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = Some(unsafe { std::os::unix::io::FromRawFd::from_raw_fd(into_raw(ours)) });
        (Channel::Vsock { listener: File::open("/dev/null").unwrap(), stream }, theirs)
    }

    fn into_raw(stream: UnixStream) -> RawFd {
        std::os::unix::io::IntoRawFd::into_raw_fd(stream)
    }

    #[test]
    fn a_connection_ends_and_the_channel_waits_for_the_next() {
        let (mut channel, theirs) = pair();
        (&theirs).write_all(b"ab").unwrap();
        let mut bytes = [0u8; 8];
        assert_eq!((&channel).read(&mut bytes).unwrap(), 2);
        assert_eq!((&channel).read(&mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(theirs);
        assert_eq!((&channel).read(&mut bytes).unwrap(), 0);
        assert!(channel.hang_up());
        assert_eq!((&channel).read(&mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(channel.accept().is_none());
    }

    #[test]
    fn a_port_is_never_hung_up() {
        let mut channel = Channel::Port(File::open("/dev/null").unwrap());
        assert!(!channel.hang_up());
        assert_eq!((&channel).read(&mut [0u8; 8]).unwrap(), 0);
    }
}
