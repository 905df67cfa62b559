//! Lifecycle hooks: one HTTP/1.1 POST from 127.0.0.1 to the application, never blocking.
//!
//! The application is not trusted: its answer is bounded, and only its status matters.

use crate::json::{object, Value};
use crate::sys;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::io::{AsRawFd, RawFd};

const PREFIX: &str = "/aws/lambda-microvms/runtime/v1/";
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
/// Tried when nothing listens on loopback: an application may bind the container's address.
const GUEST_ADDRESS: [u8; 4] = [172, 16, 0, 2];
const MAX_ANSWER: usize = 64 * 1024;

#[derive(Debug, PartialEq)]
pub enum Outcome {
    Status(u16),
    Refused,
    Reset,
    Timeout,
}

impl Outcome {
    pub fn to_json(&self) -> Value {
        match self {
            Outcome::Status(status) => object([("status", Value::Integer((*status).into()))]),
            Outcome::Refused => object([("error", "refused".into())]),
            Outcome::Reset => object([("error", "reset".into())]),
            Outcome::Timeout => object([("error", "timeout".into())]),
        }
    }
}

pub struct Hook {
    pub request_id: u32,
    pub deadline: i64,
    socket: File,
    address: [u8; 4],
    port: u16,
    request: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
}

pub fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_lowercase())
}

fn render(name: &str, port: u16, body: Option<&str>) -> Vec<u8> {
    let kind = if body.is_some() { "Content-Type: application/json\r\n" } else { "" };
    let body = body.unwrap_or("");
    let length = body.len();
    format!(
        "POST {PREFIX}{name} HTTP/1.1\r\nHost: localhost:{port}\r\n{kind}\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

fn address(ip: [u8; 4], port: u16) -> libc::sockaddr_in {
    let mut out: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    out.sin_family = libc::AF_INET as u16;
    out.sin_port = port.to_be();
    out.sin_addr.s_addr = u32::from_ne_bytes(ip);
    out
}

fn connect(ip: [u8; 4], port: u16) -> io::Result<File> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let socket = sys::owned(sys::check(unsafe { libc::socket(libc::AF_INET, kind, 0) })?);
    let size = std::mem::size_of::<libc::sockaddr_in>() as u32;
    let (from, to) = (address(LOOPBACK, 0), address(ip, port));
    let (from, to) = (&from as *const _ as *const libc::sockaddr, &to as *const _ as *const _);
    sys::check(unsafe { libc::bind(socket.as_raw_fd(), from, size) })?;
    match sys::check(unsafe { libc::connect(socket.as_raw_fd(), to, size) }) {
        Err(cause) if !sys::is(&cause, libc::EINPROGRESS) => Err(cause),
        _ => Ok(socket),
    }
}

impl Hook {
    pub fn new(
        request_id: u32,
        name: &str,
        port: u16,
        body: Option<&str>,
        deadline: i64,
    ) -> Result<Hook, Outcome> {
        let mut failure = Outcome::Refused;
        for address in [LOOPBACK, GUEST_ADDRESS] {
            match connect(address, port) {
                Ok(socket) => {
                    let request = render(name, port, body);
                    let answer = Vec::new();
                    return Ok(Hook {
                        request_id,
                        deadline,
                        socket,
                        address,
                        port,
                        request,
                        sent: 0,
                        answer,
                    });
                }
                Err(cause) => failure = outcome(&cause),
            }
        }
        Err(failure)
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The next address, after `Refused`; the caller watches the new descriptor.
    pub fn try_next_address(&mut self) -> bool {
        if self.address == GUEST_ADDRESS || self.sent > 0 {
            return false;
        }
        self.address = GUEST_ADDRESS;
        match connect(self.address, self.port) {
            Ok(socket) => {
                self.socket = socket;
                true
            }
            Err(_) => false,
        }
    }

    /// Writes and reads as far as it goes.
    pub fn advance(&mut self) -> Option<Outcome> {
        self.exchange().unwrap_or_else(|cause| match cause.kind() {
            io::ErrorKind::WouldBlock => None,
            _ => Some(outcome(&cause)),
        })
    }

    /// What to say when time is up: an answer whose body never ends is an answer.
    pub fn expired(&self) -> Outcome {
        match judge(&self.answer, true) {
            Judged::Done(status) => Outcome::Status(status),
            _ => Outcome::Timeout,
        }
    }

    fn exchange(&mut self) -> io::Result<Option<Outcome>> {
        while self.sent < self.request.len() {
            self.sent += (&self.socket).write(&self.request[self.sent..])?;
        }
        let mut bytes = [0u8; 4096];
        loop {
            let count = match (&self.socket).read(&mut bytes) {
                // An application that answers and resets the connection has answered.
                Err(cause) if sys::is(&cause, libc::ECONNRESET) => 0,
                other => other?,
            };
            self.answer.extend_from_slice(&bytes[..count]);
            match judge(&self.answer, count == 0 || self.answer.len() > MAX_ANSWER) {
                Judged::Done(status) => return Ok(Some(Outcome::Status(status))),
                Judged::Broken => return Ok(Some(Outcome::Reset)),
                Judged::Incomplete => {}
            }
        }
    }
}

fn outcome(cause: &io::Error) -> Outcome {
    if cause.kind() == io::ErrorKind::ConnectionRefused {
        Outcome::Refused
    } else {
        Outcome::Reset
    }
}

#[derive(Debug, PartialEq)]
enum Judged {
    Incomplete,
    Done(u16),
    Broken,
}

/// Whether an answer is whole; `ended` says that no more of it will come.
fn judge(answer: &[u8], ended: bool) -> Judged {
    let mut rest = answer;
    loop {
        let end = match rest.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(end) => end,
            None if ended => return Judged::Broken,
            None => return Judged::Incomplete,
        };
        let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
        let status = match status_of(&head) {
            Some(status) => status,
            None => return Judged::Broken,
        };
        let body = &rest[end + 4..];
        if (100..200).contains(&status) {
            rest = body;
            continue;
        }
        if ended || status == 204 || status == 304 || body_is_whole(&head, body) {
            return Judged::Done(status);
        }
        return Judged::Incomplete;
    }
}

fn status_of(head: &str) -> Option<u16> {
    let mut words = head.lines().next()?.split(' ');
    if !words.next()?.starts_with("http/1.") {
        return None;
    }
    let status = words.next()?;
    if status.len() != 3 {
        return None;
    }
    status.parse().ok().filter(|status| (100..600).contains(status))
}

fn body_is_whole(head: &str, body: &[u8]) -> bool {
    let header = |name: &str| {
        head.lines().find_map(|line| line.split_once(':').filter(|(key, _)| *key == name))
    };
    if header("transfer-encoding").map_or(false, |(_, value)| value.contains("chunked")) {
        return body.ends_with(b"0\r\n\r\n");
    }
    match header("content-length").and_then(|(_, value)| value.trim().parse::<usize>().ok()) {
        Some(length) => body.len() >= length,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_the_service_sends_them() {
        let with_body = String::from_utf8(render("run", 9000, Some("{}"))).unwrap();
        assert_eq!(
            with_body,
            "POST /aws/lambda-microvms/runtime/v1/run HTTP/1.1\r\nHost: localhost:9000\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
        );
        assert!(!String::from_utf8(render("ready", 1, None)).unwrap().contains("Content-Type"));
    }

    #[test]
    fn answers_are_judged() {
        for (answer, ended, expected) in [
            ("", false, Judged::Incomplete),
            ("", true, Judged::Broken),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", false, Judged::Incomplete),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, Judged::Done(200)),
            ("HTTP/1.1 503 Busy\r\n\r\n", false, Judged::Incomplete),
            ("HTTP/1.1 503 Busy\r\n\r\n", true, Judged::Done(503)),
            ("HTTP/1.0 204 No\r\n\r\n", false, Judged::Done(204)),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 X\r\ncontent-length:0\r\n\r\n",
                false,
                Judged::Done(500),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                false,
                Judged::Done(200),
            ),
            ("HTTP/1.1 2000 OK\r\n\r\n", true, Judged::Broken),
            ("SSH-2.0-x\r\n\r\n", false, Judged::Broken),
            ("HTTP/1.1 abc\r\n\r\n", false, Judged::Broken),
        ] {
            assert_eq!(judge(answer.as_bytes(), ended), expected, "{}", answer);
        }
    }

    #[test]
    fn names_are_checked() {
        assert!(valid_name("terminate"));
        assert!(!valid_name("../x") && !valid_name("") && !valid_name("Run"));
    }
}
