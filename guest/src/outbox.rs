//! What waits to be written to the node: control frames of this connection and log bytes.
//!
//! One queue keeps the order: the event of an exit comes after the last line of the
//! application. Log bytes survive a missing node up to `LOG_LIMIT`; beyond it the oldest are
//! dropped and a marker line says how many. Control frames belong to one connection.

use crate::frames::{encode, Kind};
use std::collections::VecDeque;
use std::io::{self, Write};

const LOG_LIMIT: usize = 256 * 1024;
/// Above this the agent stops taking requests until the node has read its answers.
const CONTROL_LIMIT: usize = 1024 * 1024;
const STDERR: u32 = 2;

struct Entry {
    log: bool,
    bytes: Vec<u8>,
}

#[derive(Default)]
pub struct Outbox {
    queue: VecDeque<Entry>,
    /// Bytes of the front entry that are written already.
    sent: usize,
    log_bytes: usize,
    control_bytes: usize,
    dropped: u64,
}

impl Outbox {
    pub fn control(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        let bytes = encode(kind, stream, payload);
        self.control_bytes += bytes.len();
        self.queue.push_back(Entry { log: false, bytes });
    }

    pub fn log(&mut self, stream: u32, payload: &[u8]) {
        let bytes = encode(Kind::Log, stream, payload);
        self.log_bytes += bytes.len();
        self.queue.push_back(Entry { log: true, bytes });
        while self.log_bytes > LOG_LIMIT {
            if !self.drop_oldest_log() {
                break;
            }
        }
    }

    fn drop_oldest_log(&mut self) -> bool {
        // The front entry may be half written: its rest must follow.
        let first = usize::from(self.sent > 0);
        let found = (first..self.queue.len()).find(|index| self.queue[*index].log);
        let entry = match found.and_then(|index| self.queue.remove(index)) {
            Some(entry) => entry,
            None => return false,
        };
        self.log_bytes -= entry.bytes.len();
        self.dropped += (entry.bytes.len() - crate::frames::HEADER) as u64;
        true
    }

    /// A node connected anew: nothing of the old conversation may reach it, and its answer
    /// comes before the logs that waited for it.
    pub fn restart(&mut self, stream: u32, acknowledgement: &[u8]) {
        self.forget_control();
        let bytes = encode(Kind::HelloAck, stream, acknowledgement);
        self.control_bytes = bytes.len();
        self.queue.push_front(Entry { log: false, bytes });
    }

    /// The node is gone. A log frame that was half written is written again, whole.
    pub fn forget_control(&mut self) {
        self.queue.retain(|entry| entry.log);
        self.sent = 0;
        self.control_bytes = 0;
    }

    pub fn congested(&self) -> bool {
        self.control_bytes > CONTROL_LIMIT
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Writes until the port takes no more.
    pub fn flush(&mut self, mut port: impl Write) -> io::Result<()> {
        if self.dropped > 0 && self.sent == 0 {
            let line = format!("[microvmd: {} bytes of older log were dropped]\n", self.dropped);
            let bytes = encode(Kind::Log, STDERR, line.as_bytes());
            let place = self.queue.iter().position(|e| e.log).unwrap_or(self.queue.len());
            self.log_bytes += bytes.len();
            self.queue.insert(place, Entry { log: true, bytes });
            self.dropped = 0;
        }
        while let Some(front) = self.queue.front() {
            match port.write(&front.bytes[self.sent..]) {
                Ok(0) => return Ok(()),
                Ok(count) => self.sent += count,
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => return Err(cause),
            }
            if self.sent == front.bytes.len() {
                let (log, length) = (front.log, front.bytes.len());
                self.sent = 0;
                self.queue.pop_front();
                if log {
                    self.log_bytes -= length;
                } else {
                    self.control_bytes -= length;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Frame, Parser};

    /// A port that takes `room` bytes and then would block.
    struct Port {
        room: usize,
        got: Vec<u8>,
    }

    impl Write for &mut Port {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.got.extend_from_slice(&bytes[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn flushed(outbox: &mut Outbox, room: usize) -> Vec<Frame> {
        let mut port = Port { room, got: Vec::new() };
        outbox.flush(&mut port).unwrap();
        let mut parser = Parser::default();
        parser.feed(&port.got);
        std::iter::from_fn(|| parser.next_frame()).collect()
    }

    #[test]
    fn the_order_is_kept() {
        let mut outbox = Outbox::default();
        outbox.log(1, b"last line\n");
        outbox.control(Kind::Event, 0, b"{}");
        let kinds: Vec<Kind> = flushed(&mut outbox, 1000).iter().map(|f| f.kind).collect();
        assert_eq!(kinds, [Kind::Log, Kind::Event]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn old_logs_are_dropped_with_a_marker() {
        let mut outbox = Outbox::default();
        for _ in 0..100 {
            outbox.log(1, &[b'x'; 8000]);
        }
        assert!(outbox.log_bytes <= LOG_LIMIT);
        let frames = flushed(&mut outbox, usize::MAX);
        let kept = frames.len() - 1;
        let marker = String::from_utf8(frames[0].payload.clone()).unwrap();
        assert_eq!(
            marker,
            format!("[microvmd: {} bytes of older log were dropped]\n", (100 - kept) * 8000)
        );
        assert_eq!((outbox.log_bytes, outbox.control_bytes), (0, 0));
    }

    #[test]
    fn a_new_node_gets_its_answer_first_and_whole_logs() {
        let mut outbox = Outbox::default();
        outbox.log(1, b"first");
        outbox.control(Kind::Reply, 9, b"old");
        assert!(flushed(&mut outbox, 14).is_empty(), "half of the log frame went out");
        outbox.restart(0, b"ack");
        let frames = flushed(&mut outbox, 1000);
        assert_eq!(frames.len(), 2);
        assert_eq!((frames[0].kind, &frames[0].payload[..]), (Kind::HelloAck, &b"ack"[..]));
        assert_eq!((frames[1].kind, &frames[1].payload[..]), (Kind::Log, &b"first"[..]));
    }

    #[test]
    fn unread_answers_are_bounded_by_the_caller() {
        let mut outbox = Outbox::default();
        while !outbox.congested() {
            outbox.control(Kind::Data, 1, &[0; 60_000]);
        }
        flushed(&mut outbox, usize::MAX);
        assert!(!outbox.congested());
    }
}
