//! The application: its state, its log pipes, and the container that others enter.

use crate::json::{object, Value};
use crate::spawn::{self, Command, Container, Started, Streams, Surroundings};
use crate::sys::{self, Error, Result, Step};
use std::fs::File;
use std::io::{self, Read};

/// Bytes of one log frame; more frames of less would cost more interrupts under emulation.
const CHUNK: usize = 16 * 1024;
/// What a pipe holds.
const PIPE: usize = 64 * 1024;
/// A holder that has not come up by then is taken for dead.
const HOLDER_LIMIT_MS: i32 = 10_000;

/// How a process ended: exactly one of the two is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

impl Exit {
    pub fn from_wait(status: i32) -> Exit {
        if libc::WIFSIGNALED(status) {
            Exit { code: None, signal: Some(libc::WTERMSIG(status)) }
        } else {
            Exit { code: Some(libc::WEXITSTATUS(status)), signal: None }
        }
    }

    pub fn members(&self) -> [(&'static str, Value); 2] {
        [("code", self.code.into()), ("signal", self.signal.into())]
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum State {
    Booted,
    /// The process exists, but has not become the application yet.
    Starting,
    Running,
    Exited(Exit),
}

pub struct Application {
    pub state: State,
    pub pid: i32,
    holder: i32,
    container: Option<Container>,
    /// Of the application that was started last.
    surroundings: Option<Surroundings>,
    /// The reading ends of stdout and stderr.
    pub logs: [Option<File>; 2],
}

impl Application {
    pub fn new() -> Application {
        Application {
            state: State::Booted,
            pid: 0,
            holder: 0,
            container: None,
            surroundings: None,
            logs: [None, None],
        }
    }

    pub fn describe(&self) -> (Value, Value) {
        match self.state {
            State::Booted => ("booted".into(), Value::Null),
            State::Starting | State::Running => ("running".into(), Value::Null),
            State::Exited(exit) => ("exited".into(), object(exit.members())),
        }
    }

    pub fn alive(&self) -> bool {
        matches!(self.state, State::Starting | State::Running)
    }

    pub fn start(&mut self, command: Command) -> Result<Started> {
        self.end_holder();
        let (output, output_end) = sys::pipe().step("pipe")?;
        let (error, error_end) = sys::pipe().step("pipe")?;
        for file in [&output, &error] {
            sys::set_nonblocking(file).step("set a log pipe non-blocking")?;
        }
        let streams = Streams::Pipes { input: None, output: output_end, error: error_end };
        self.surroundings = Some(command.surroundings());
        let started = spawn::first(command, streams)?;
        self.pid = started.pid;
        self.state = State::Starting;
        self.logs = [Some(output), Some(error)];
        Ok(started)
    }

    /// The application runs: from now on others may enter its container.
    pub fn confirm(&mut self) {
        self.state = State::Running;
        // An application that has ended already leaves nothing to enter; its exit follows.
        self.container = Container::of(self.pid).ok();
    }

    pub fn ended(&mut self, exit: Exit) {
        self.state = State::Exited(exit);
        self.pid = 0;
        self.container = None;
    }

    /// Environment, directory and rights of the application; where none was started, `env` alone.
    pub fn surroundings(&self, env: &[String]) -> Surroundings {
        let alone =
            || Surroundings { env: env.to_vec(), cwd: "/".to_string(), all_capabilities: false };
        self.surroundings.clone().unwrap_or_else(alone)
    }

    /// Starts `command` in the application's container, or in one made for it.
    pub fn beside(&mut self, command: Command, streams: Streams) -> Result<Started> {
        if self.state == State::Starting {
            return Err(Error::errno("enter the container", libc::EBUSY));
        }
        if self.container.is_none() {
            self.start_holder(command.all_capabilities)?;
        }
        match &self.container {
            Some(container) => spawn::beside(container, command, streams),
            None => Err(Error::errno("enter the container", libc::ESRCH)),
        }
    }

    fn start_holder(&mut self, all_capabilities: bool) -> Result<()> {
        let started = spawn::holder(all_capabilities)?;
        self.holder = started.pid;
        let fd = std::os::unix::io::AsRawFd::as_raw_fd(&started.status);
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        unsafe { libc::poll(&mut poll, 1, HOLDER_LIMIT_MS) };
        if let Some(reason) = failure(&started.status) {
            self.end_holder();
            return Err(Error::new(
                "make a container",
                io::Error::new(io::ErrorKind::Other, reason),
            ));
        }
        self.container = Some(Container::of(started.pid)?);
        Ok(())
    }

    pub fn holds(&self, pid: i32) -> bool {
        self.holder == pid
    }

    /// Ends the holder and with it every process in its container.
    pub fn end_holder(&mut self) {
        if self.holder > 0 {
            let _ = sys::kill(self.holder, libc::SIGKILL);
            self.holder = 0;
            self.container = None;
        }
    }

    pub fn holder_ended(&mut self) {
        self.holder = 0;
        self.container = None;
    }

    /// Reads what the application wrote to stdout (0) or stderr (1). False: nothing more comes.
    pub fn pump_log(&mut self, index: usize, mut log: impl FnMut(&[u8])) -> bool {
        let mut bytes = [0u8; CHUNK];
        let mut file = match &self.logs[index] {
            Some(file) => file,
            None => return false,
        };
        // At most one full pipe at a time: a flood must not keep the agent from its node.
        for _ in 0..PIPE / CHUNK {
            match file.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => log(&bytes[..count]),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return cause.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}

/// What a status pipe says: why the process did not start, or `None` if it did.
pub fn failure(mut status: &File) -> Option<String> {
    let mut bytes = [0u8; 512];
    match status.read(&mut bytes) {
        Ok(0) => None,
        Ok(count) => Some(String::from_utf8_lossy(&bytes[..count]).to_string()),
        Err(cause) => Some(cause.to_string()),
    }
}
