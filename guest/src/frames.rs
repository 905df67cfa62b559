//! Frames between node and agent; src/microvmd/messages/guest.py documents the wire.
//!
//! The parser is incremental: it takes bytes in any portions and never holds more than one
//! frame. After a violation (bad magic, version, type or length) it looks for the next HELLO
//! and drops everything before it, so that a host that died in the middle of a frame, or a
//! hostile one, cannot wedge the channel.

pub const MAGIC: u16 = 0x4d56;
pub const VERSION: u8 = 1;
pub const HEADER: usize = 12;
pub const MAX_PAYLOAD: usize = 65536;
/// A HELLO carries a nonce and nothing else; small bounds keep resynchronising cheap.
pub const MAX_HELLO: usize = 256;
pub const MAX_HELLO_ACK: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    HelloAck = 2,
    Request = 3,
    Reply = 4,
    Log = 5,
    Event = 6,
    Data = 7,
    Window = 8,
    Close = 9,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Hello,
            2 => Kind::HelloAck,
            3 => Kind::Request,
            4 => Kind::Reply,
            5 => Kind::Log,
            6 => Kind::Event,
            7 => Kind::Data,
            8 => Kind::Window,
            9 => Kind::Close,
            _ => return None,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub stream: u32,
    pub payload: Vec<u8>,
}

struct Header {
    kind: Kind,
    stream: u32,
    length: usize,
}

pub fn encode(kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= MAX_PAYLOAD);
    let mut out = Vec::with_capacity(HEADER + payload.len());
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.push(VERSION);
    out.push(kind as u8);
    out.extend_from_slice(&stream.to_le_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
    out
}

fn header(bytes: &[u8]) -> Option<Header> {
    if u16::from_le_bytes([bytes[0], bytes[1]]) != MAGIC || bytes[2] != VERSION {
        return None;
    }
    let kind = Kind::from_byte(bytes[3])?;
    let stream = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    let length = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize;
    let limit = match kind {
        Kind::Hello => MAX_HELLO,
        Kind::HelloAck => MAX_HELLO_ACK,
        _ => MAX_PAYLOAD,
    };
    if length > limit {
        return None;
    }
    Some(Header { kind, stream, length })
}

#[derive(Default)]
pub struct Parser {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were handed out already.
    taken: usize,
    lost: bool,
    /// How often the parser had to look for a new HELLO.
    pub violations: u64,
}

impl Parser {
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Forgets a half-read frame: the host went away.
    pub fn reset(&mut self) {
        // A fresh Vec: an idle agent should hold no memory for a frame that once was large.
        self.buffer = Vec::new();
        self.taken = 0;
        self.lost = false;
    }

    /// The next whole frame among the bytes fed so far.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let rest = &self.buffer[self.taken..];
            if rest.len() < HEADER {
                return None;
            }
            match header(rest) {
                Some(head) if !self.lost || head.kind == Kind::Hello => {
                    if rest.len() < HEADER + head.length {
                        return None;
                    }
                    self.lost = false;
                    let payload = rest[HEADER..HEADER + head.length].to_vec();
                    self.taken += HEADER + head.length;
                    return Some(Frame { kind: head.kind, stream: head.stream, payload });
                }
                _ => {
                    if !self.lost {
                        self.lost = true;
                        self.violations += 1;
                    }
                    self.taken += 1;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "frames_test.rs"]
mod tests;
