//! Processes that the node starts beside the application, with pipes or a terminal.
//!
//! Each direction of a stream has a window: the sender stops when the credit is used up, so
//! neither a slow reader nor a flood of output can fill memory on the other side.

use crate::sys::{self, Epoll};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::io::{AsRawFd, RawFd};

/// Credit that both sides have when a stream opens.
pub const WINDOW: usize = 64 * 1024;
/// Output of the error stream has the id of its session with this bit set.
pub const ERROR_BIT: u32 = 0x8000_0000;
pub const MAX_SESSIONS: usize = 64;
const CHUNK: usize = 16 * 1024;

/// A descriptor that is watched or not; watching twice or never is not an error.
struct Watched {
    file: File,
    token: u64,
    events: i32,
    active: bool,
}

impl Watched {
    fn new(file: File, token: u64, events: i32) -> Watched {
        Watched { file, token, events, active: false }
    }

    fn watch(&mut self, epoll: &Epoll, wanted: bool) {
        if wanted && !self.active {
            self.active = epoll.add(self.file.as_raw_fd(), self.token, self.events).is_ok();
        } else if !wanted && self.active {
            epoll.remove(self.file.as_raw_fd());
            self.active = false;
        }
    }
}

struct Output {
    watched: Watched,
    stream: u32,
    credit: usize,
    /// A terminal has said once that nobody holds it any more.
    hung_up: bool,
    ended: bool,
}

pub struct Session {
    pub id: u32,
    pub pid: i32,
    pub tty: bool,
    /// (exit code, signal) once the process has ended.
    pub exit: Option<(Option<i32>, Option<i32>)>,
    input: Option<Watched>,
    input_ended: bool,
    pending: VecDeque<u8>,
    outputs: Vec<Output>,
}

/// Tokens under which the three descriptors of a session are watched.
pub struct Tokens {
    pub input: u64,
    pub output: u64,
    pub error: u64,
}

impl Session {
    pub fn new(
        id: u32,
        tty: bool,
        input: File,
        outputs: Vec<File>,
        tokens: &Tokens,
    ) -> io::Result<Session> {
        sys::set_nonblocking(&input)?;
        let mut session = Session {
            id,
            pid: 0,
            tty,
            exit: None,
            input: Some(Watched::new(input, tokens.input, libc::EPOLLOUT)),
            input_ended: false,
            pending: VecDeque::new(),
            outputs: Vec::new(),
        };
        for (index, file) in outputs.into_iter().enumerate() {
            sys::set_nonblocking(&file)?;
            let (stream, token) =
                if index == 0 { (id, tokens.output) } else { (id | ERROR_BIT, tokens.error) };
            let watched = Watched::new(file, token, libc::EPOLLIN);
            let output = Output { watched, stream, credit: WINDOW, hung_up: false, ended: false };
            session.outputs.push(output);
        }
        Ok(session)
    }

    pub fn watch_outputs(&mut self, epoll: &Epoll) {
        for output in &mut self.outputs {
            let wanted = !output.ended && output.credit > 0;
            output.watched.watch(epoll, wanted);
        }
    }

    pub fn unwatch(&mut self, epoll: &Epoll) {
        let outputs = self.outputs.iter_mut().map(|output| &mut output.watched);
        for watched in outputs.chain(self.input.iter_mut()) {
            watched.watch(epoll, false);
        }
    }

    pub fn terminal(&self) -> Option<RawFd> {
        self.outputs.first().filter(|_| self.tty).map(|output| output.watched.file.as_raw_fd())
    }

    pub fn grant(&mut self, stream: u32, credit: u32) {
        for output in self.outputs.iter_mut().filter(|output| output.stream == stream) {
            output.credit = (output.credit + credit as usize).min(WINDOW);
        }
    }

    /// Reads what the process wrote, within the credit; `send` gets (stream, bytes).
    pub fn pump_outputs(&mut self, epoll: &Epoll, mut send: impl FnMut(u32, &[u8])) {
        let mut bytes = [0u8; CHUNK];
        let exited = self.exit.is_some();
        for output in self.outputs.iter_mut().filter(|output| !output.ended) {
            while output.credit > 0 {
                let room = output.credit.min(CHUNK);
                match (&output.watched.file).read(&mut bytes[..room]) {
                    Ok(0) => output.ended = true,
                    Ok(count) => {
                        output.credit -= count;
                        send(output.stream, &bytes[..count]);
                        continue;
                    }
                    Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                    // After the exit nothing more is waited for: a process left in the
                    // background may hold the stream for ever.
                    Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                        output.ended = exited;
                    }
                    // A terminal says EIO when its last process is gone. Linux looks for text on
                    // its way before it looks whether the other side is closed (n_tty_read), so
                    // what was written between the two is there at the next read only.
                    Err(cause) if cause.raw_os_error() == Some(libc::EIO) && !output.hung_up => {
                        output.hung_up = true;
                        continue;
                    }
                    Err(_) => output.ended = true,
                }
                break;
            }
        }
        self.watch_outputs(epoll);
    }

    /// Takes bytes for the process, empty meaning the end of input. False: more than the window.
    pub fn push_input(&mut self, bytes: &[u8]) -> bool {
        if self.pending.len() + bytes.len() > WINDOW {
            return false;
        }
        self.input_ended |= bytes.is_empty();
        self.pending.extend(bytes);
        true
    }

    /// Writes pending input; returns how much credit the node gets back.
    pub fn pump_input(&mut self, epoll: &Epoll) -> usize {
        let input = match &mut self.input {
            Some(input) => input,
            None => return std::mem::take(&mut self.pending).len(),
        };
        let mut written = 0;
        while !self.pending.is_empty() {
            match (&input.file).write(self.pending.as_slices().0) {
                Ok(count) => {
                    self.pending.drain(..count);
                    written += count;
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => break,
                // Nobody reads any more: the rest is thrown away, as a pipe would.
                Err(_) => {
                    written += std::mem::take(&mut self.pending).len();
                    self.input_ended = true;
                }
            }
        }
        input.watch(epoll, !self.pending.is_empty());
        if self.input_ended && self.pending.is_empty() && !self.tty {
            input.watch(epoll, false);
            self.input = None;
        }
        written
    }

    pub fn finished(&self) -> bool {
        self.exit.is_some() && self.outputs.iter().all(|output| output.ended)
    }

    /// Ends the process with all that it started in its session.
    pub fn hang_up(&self) {
        if self.pid > 0 && self.exit.is_none() {
            let _ = sys::kill(-self.pid, libc::SIGHUP);
            let _ = sys::kill(-self.pid, libc::SIGKILL);
            // It may not have become the leader of its session yet.
            let _ = sys::kill(self.pid, libc::SIGKILL);
        }
    }
}

/// A terminal of the containers' devpts: (master, slave).
pub fn open_terminal(rows: u16, cols: u16) -> sys::Result<(File, File)> {
    use crate::sys::Step;
    let path = format!("{}/ptmx", crate::boot::TERMINALS);
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let path = sys::c_string(path).step("ptmx")?;
    let master = sys::check(unsafe { libc::open(path.as_ptr(), flags) }).map(sys::owned);
    let master = master.step("open ptmx")?;
    let unlocked: libc::c_int = 0;
    sys::check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) })
        .step("unlock the terminal")?;
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let slave = sys::check(slave).map(sys::owned).step("open the terminal")?;
    resize(master.as_raw_fd(), rows, cols).step("size the terminal")?;
    Ok((master, slave))
}

pub fn resize(terminal: RawFd, rows: u16, cols: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    sys::check(unsafe { libc::ioctl(terminal, libc::TIOCSWINSZ, &size) }).map(|_| ())
}
